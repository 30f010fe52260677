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
			return nil, badQuery(fmt.Sprintf("there is no parameter %.64q here", name))
		case len(all) > 1:
			return nil, badQuery(fmt.Sprintf("parameter %.64q is there twice", name))
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

// The headers that make a write conditional.
const (
	ifMatch     = "If-Match"
	ifNoneMatch = "If-None-Match"
)

// checkConditions refuses a write on a condition that the endpoint does not look at: it would not be conditional at all. A read
// may leave them aside, which costs a transfer.
func checkConditions(r *http.Request, known []string) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	for _, header := range []string{ifMatch, ifNoneMatch} {
		if len(r.Header.Values(header)) > 0 && !slices.Contains(known, header) {
			return badCondition("there is no " + header + " here")
		}
	}
	return nil
}

func badCondition(why string) error {
	return &refusal{status: http.StatusBadRequest, code: "bad_condition", text: why}
}

// revision is the one that If-Match names, 0 where there is none. A header that is there and empty is not none: who has
// sent it did not mean to write unconditionally.
func (r *request) revision() (int64, error) {
	said := r.Header.Values(ifMatch)
	if len(said) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(said[0], `"`), 10, 64)
	if plain := strconv.FormatInt(n, 10); err != nil || n < 1 || len(said) > 1 || said[0] != plain && said[0] != `"`+plain+`"` {
		return 0, badCondition(ifMatch + ` is one ETag as it was given, such as "7"`)
	}
	return n, nil
}

// ifAbsent reports whether the key must not be there, which If-None-Match: * says.
func (r *request) ifAbsent() (bool, error) {
	said := r.Header.Values(ifNoneMatch)
	switch {
	case len(said) == 0:
		return false, nil
	case len(said) > 1 || said[0] != "*" || len(r.Header.Values(ifMatch)) > 0:
		return false, badCondition(ifNoneMatch + " is *, and does not go with " + ifMatch)
	}
	return true, nil
}

// etag is the header that carries a revision.
func etag(rev int64) map[string]string {
	return map[string]string{"ETag": `"` + strconv.FormatInt(rev, 10) + `"`}
}
