package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// parseQuery returns the parameters of a request. A parameter that is unknown or set twice is an
// error: "?cahced=true" must not be answered as if it were not there.
func parseQuery(raw string, known []string) (map[string]string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badQuery("it has an invalid escape")
	}
	query := map[string]string{}
	for name, all := range values {
		switch {
		case !slices.Contains(known, name):
			return nil, badQuery(fmt.Sprintf("unknown parameter %.64q", name))
		case len(all) > 1:
			return nil, badQuery(fmt.Sprintf("parameter %.64q is set twice", name))
		}
		query[name] = all[0]
	}
	return query, nil
}

func badQuery(cause string) error {
	return &refusal{status: http.StatusBadRequest, code: "bad_query", text: "invalid query: " + cause}
}

// flag returns a boolean parameter, false by default.
func (r *request) flag(name string) (bool, error) {
	switch r.query[name] {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, badQuery(name + " must be true or false")
}

// number returns a parameter between 1 and limit, limit by default.
func (r *request) number(name string, limit int) (int, error) {
	text, ok := r.query[name]
	if !ok {
		return limit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > limit {
		return 0, badQuery(fmt.Sprintf("%s must be a number from 1 to %d", name, limit))
	}
	return n, nil
}

// key returns the key of a request, from its path or from the parameter.
func (r *request) key() (string, error) {
	key, ok := r.params["key"]
	if !ok {
		key = r.query["key"]
	}
	if key == "" {
		return "", &refusal{
			status: http.StatusBadRequest, code: "bad_key", text: "a key is needed, in the path or as ?key=",
		}
	}
	return key, checkKey(key)
}

// prefix returns the dir of a request. "" is the whole namespace.
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

// checkConditions refuses a write with a condition that its endpoint does not support, since the
// write would be unconditional. On a read the conditions are ignored, as HTTP allows.
func checkConditions(r *http.Request, known []string) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	for _, header := range []string{ifMatch, ifNoneMatch} {
		if len(r.Header.Values(header)) > 0 && !slices.Contains(known, header) {
			return badCondition(header + " is not supported here")
		}
	}
	return nil
}

func badCondition(text string) error {
	return &refusal{status: http.StatusBadRequest, code: "bad_condition", text: text}
}

// revision returns the revision in If-Match, 0 without that header. An empty header is an error:
// its sender did not mean to write unconditionally.
func (r *request) revision() (int64, error) {
	values := r.Header.Values(ifMatch)
	if len(values) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(values[0], `"`), 10, 64)
	plain := strconv.FormatInt(n, 10)
	if err != nil || n < 1 || len(values) > 1 || values[0] != plain && values[0] != `"`+plain+`"` {
		return 0, badCondition(ifMatch + ` must be one ETag as the gateway returned it, such as "7"`)
	}
	return n, nil
}

// ifAbsent reports whether the key must not exist, which If-None-Match: * asks for.
func (r *request) ifAbsent() (bool, error) {
	values := r.Header.Values(ifNoneMatch)
	switch {
	case len(values) == 0:
		return false, nil
	case len(values) > 1 || values[0] != "*" || len(r.Header.Values(ifMatch)) > 0:
		return false, badCondition(ifNoneMatch + " must be * and cannot be combined with " + ifMatch)
	}
	return true, nil
}

// revisionName is the header that carries the revision of an answer.
const revisionName = "Etcd-Revision"

// revisionHeader returns the header with the revision of an answer: that at which a key was written
// or deleted, or that which a listing shows.
func revisionHeader(rev int64) map[string]string {
	return map[string]string{revisionName: strconv.FormatInt(rev, 10)}
}

// etag returns the revision of a key, as If-Match takes it as well.
func etag(rev int64) map[string]string {
	header := revisionHeader(rev)
	header["ETag"] = `"` + header[revisionName] + `"`
	return header
}
