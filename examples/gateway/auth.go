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

// minToken is the minimum length of a token. A random one of 16 bytes cannot be guessed.
const minToken = 16

// token is the hash of the token that requests must carry. Comparing hashes takes the same time
// for all tokens, whatever their length.
type token [sha256.Size]byte

// readToken reads a token file and ignores white space around the token. Without a path it returns
// nil.
func readToken(path string) (*token, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no token is needed
	}
	text, err := os.ReadFile(path) //nolint:gosec // the path is the user's configuration
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	text = bytes.TrimSpace(text)
	if len(text) < minToken {
		return nil, fmt.Errorf("token file: a token of %d bytes can be guessed: at least %d are needed", len(text), minToken)
	}
	if bytes.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, errors.New("token file: a token must be a single word of ASCII characters")
	}
	t := token(sha256.Sum256(text))
	return &t, nil
}

// matches reports whether s is the token.
func (t *token) matches(s string) bool {
	hash := sha256.Sum256([]byte(s))
	return subtle.ConstantTimeCompare(hash[:], t[:]) == 1
}

// authenticate refuses a request that does not carry the token. Without a token it refuses every
// Host but the loopback, since a web page may have made the browser send the request.
func (s *service) authenticate(r *http.Request) error {
	if s.token == nil {
		if !loopback(r.Host) {
			return &refusal{
				status: http.StatusForbidden, code: "bad_host",
				text: "without a token the gateway only answers requests to localhost",
			}
		}
		return nil
	}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || !s.token.matches(value) || len(r.Header.Values("Authorization")) != 1 {
		return &refusal{
			status: http.StatusUnauthorized, code: "unauthorized", text: "the request needs the bearer token",
			header: map[string]string{"WWW-Authenticate": `Bearer realm="etcd"`},
		}
	}
	return nil
}
