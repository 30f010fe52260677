package main

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A path is checked as the client has spelled it, before anything else. Cleaning it, as
// http.ServeMux does, would turn "//" and "/../" into a redirect to another key, and "%2F" would
// become a slash. A path that can be read in two ways is refused; such keys need ?key=.

// segmentsOf splits an escaped path and decodes its segments.
func segmentsOf(escaped string) (segments []string, endsInSlash bool, err error) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, false, badPath("it does not begin with a slash")
	}
	if rest == "" {
		return nil, false, nil
	}
	rest, endsInSlash = strings.CutSuffix(rest, "/")
	for part := range strings.SplitSeq(rest, "/") {
		segment, err := url.PathUnescape(part)
		if err != nil {
			return nil, false, badPath("it has an invalid escape")
		}
		if err := checkSegment(segment); err != nil {
			return nil, false, err
		}
		segments = append(segments, segment)
	}
	return segments, endsInSlash, nil
}

// checkSegment refuses what proxies, browsers and servers treat differently.
func checkSegment(s string) error {
	switch {
	case s == "":
		return badPath("it has an empty segment")
	case s == ".", s == "..":
		return badPath("it has a dot segment")
	case strings.ContainsAny(s, `/\`):
		return badPath("it has an escaped slash, or a backslash")
	case !utf8.ValidString(s):
		return badPath("it is not UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		return badPath("it has a control character")
	}
	return nil
}

func badPath(cause string) error {
	return &refusal{status: 400, code: "bad_path", text: "invalid path: " + cause}
}

// withKeyHint adds to the error of a key's path how to name such a key.
func withKeyHint(r *http.Request, err error) error {
	e, ok := errors.AsType[*refusal](err)
	if !ok || !strings.HasPrefix(r.URL.EscapedPath(), "/api/etcd/kv/") {
		return err
	}
	hinted := *e
	hinted.text += "; use ?key= for such keys"
	return &hinted
}

// checkKey refuses keys that JSON cannot carry or that other programs would truncate.
func checkKey(key string) error {
	if !utf8.ValidString(key) || strings.ContainsRune(key, 0) {
		return &refusal{status: 400, code: "bad_key", text: "a key must be UTF-8 without NUL"}
	}
	return nil
}
