package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// minToken is the length of the shortest token that is one. A random one of 16 bytes cannot be guessed.
const minToken = 16

// token is what requests have to carry. Only its hash is kept: comparing hashes takes the same time for all tokens, whatever
// their length.
type token [sha256.Size]byte

// readToken reads a token file. White space around the token is not part of it, and inside it would be what no request can
// carry. No file is no token.
func readToken(path string) (*token, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // none is asked for
	}
	text, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	text = bytes.TrimSpace(text)
	if len(text) < minToken {
		return nil, fmt.Errorf("token file: a token of %d bytes can be guessed: it has to have %d at least", len(text), minToken)
	}
	if bytes.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, errors.New("token file: a token is a single word of ASCII characters")
	}
	t := token(sha256.Sum256(text))
	return &t, nil
}

// is reports whether a request has said the token.
func (t *token) is(said string) bool {
	hash := sha256.Sum256([]byte(said))
	return subtle.ConstantTimeCompare(hash[:], t[:]) == 1
}

// authenticate refuses requests that may not be answered.
func (s *service) authenticate(r *http.Request) error {
	if s.token == nil {
		if !loopback(r.Host) {
			return &refusal{
				status: http.StatusForbidden, code: "bad_host",
				text: "without a token there are answers for localhost only: a web page of another name may be behind this",
			}
		}
		return nil
	}
	scheme, said, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || !s.token.is(said) || len(r.Header.Values("Authorization")) != 1 {
		return &refusal{
			status: http.StatusUnauthorized, code: "unauthorized", text: "a bearer token is needed",
			header: map[string]string{"WWW-Authenticate": `Bearer realm="etcd"`},
		}
	}
	return nil
}
