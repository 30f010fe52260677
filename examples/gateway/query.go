package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// parseQuery reads the parameters of a request. One that is not known, or that comes twice, is an error: "?cahced=true"
// should not be answered as if nothing had been said.
func parseQuery(raw string, known []string) (map[string]string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badQuery("it is not escaped as it should be")
	}
	out := map[string]string{}
	for name, all := range values {
		switch {
		case !slices.Contains(known, name):
			return nil, badQuery(fmt.Sprintf("there is no parameter %q here", name))
		case len(all) > 1:
			return nil, badQuery(fmt.Sprintf("parameter %q is there twice", name))
		}
		out[name] = all[0]
	}
	return out, nil
}

func badQuery(why string) error {
	return &refusal{status: http.StatusBadRequest, code: "bad_query", text: "the query cannot be used: " + why}
}

// flag is a parameter that is true or false.
func (r *request) flag(name string) (bool, error) {
	switch r.query[name] {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, badQuery(name + " is true or false")
}

// number is a parameter between 1 and most, which it is when it is not given.
func (r *request) number(name string, most int) (int, error) {
	text, ok := r.query[name]
	if !ok {
		return most, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, badQuery(fmt.Sprintf("%s is a number from 1 to %d", name, most))
	}
	return n, nil
}

// key is the key that a request is about: what its path says, or the parameter.
func (r *request) key() (string, error) {
	key, ok := r.params["key"]
	if !ok {
		key = r.query["key"]
	}
	if key == "" {
		return "", &refusal{status: http.StatusBadRequest, code: "bad_key", text: "a key is needed, in the path or as ?key="}
	}
	return key, checkKey(key)
}

// prefix is the dir that a request is about; none is the whole namespace.
func (r *request) prefix() (string, error) {
	prefix, ok := r.params["key"]
	if !ok {
		prefix = r.query["key"]
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return prefix, checkKey(prefix)
}

// revision is the one that a header such as If-Match: "7" names, 0 where there is none.
func (r *request) revision(header string) (int64, error) {
	text := r.Header.Get(header)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(text, `"`), `"`), 10, 64)
	if err != nil || n < 1 || len(r.Header.Values(header)) > 1 {
		return 0, &refusal{status: http.StatusBadRequest, code: "bad_condition", text: header + ` is one ETag as it was given, such as "7"`}
	}
	return n, nil
}

// etag is the header that carries a revision.
func etag(rev int64) map[string]string {
	return map[string]string{"ETag": `"` + strconv.FormatInt(rev, 10) + `"`}
}
