package main

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A path is looked at as the client has spelled it, before anything else is. Cleaning it, as http.ServeMux does, would turn
// "//" and "/../" into a redirect to another key, and "%2F" would become a slash where there was none. Whatever could be
// read in two ways is refused; such keys have the form ?key=.

// segmentsOf takes an escaped path apart and decodes its segments. open says that it ends in a slash.
func segmentsOf(escaped string) (segments []string, open bool, err error) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, false, badPath("it does not begin with a slash")
	}
	if rest == "" {
		return nil, false, nil
	}
	rest, open = strings.CutSuffix(rest, "/")
	for part := range strings.SplitSeq(rest, "/") {
		segment, err := url.PathUnescape(part)
		if err != nil {
			return nil, false, badPath("it is not escaped as it should be")
		}
		if err := checkSegment(segment); err != nil {
			return nil, false, err
		}
		segments = append(segments, segment)
	}
	return segments, open, nil
}

// checkSegment refuses what proxies, browsers and servers do not agree about.
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

func badPath(why string) error {
	return &refusal{status: 400, code: "bad_path", text: "the path cannot be used: " + why}
}

// withKeyHint adds to the refusal of a path how to name such a key, where the path was that of a key.
func withKeyHint(r *http.Request, err error) error {
	validationErr, ok := errors.AsType[*refusal](err)
	if !ok || !strings.HasPrefix(r.URL.EscapedPath(), "/api/etcd/kv/") {
		return err
	}
	hinted := *validationErr
	hinted.text += "; use ?key= for such keys"
	return &hinted
}

// checkKey refuses what JSON cannot carry, or what other programs would cut short. Everything else is a key, and means itself.
func checkKey(key string) error {
	if !utf8.ValidString(key) || strings.ContainsRune(key, 0) {
		return &refusal{status: 400, code: "bad_key", text: "a key is UTF-8 without NUL"}
	}
	return nil
}
