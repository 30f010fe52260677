package main

import (
	"net/http"
	"time"
)

// maxLogged bounds how much of a path the log shows.
const maxLogged = 256

// logAccess writes a line about a request: neither its query, its headers nor its body, which may hold what nobody should
// read in a log.
func (s *service) logAccess(r *http.Request, route string, w *recorder, took time.Duration) {
	path := r.URL.EscapedPath()
	if len(path) > maxLogged {
		path = path[:maxLogged] + "..."
	}
	s.log.InfoContext(r.Context(), "request", "method", method(r.Method), "path", path, "route", route, "status", w.status,
		"bytes", w.bytes, "seconds", took.Seconds(), "remote", r.RemoteAddr)
}

// method is a method that is known, so that logs and metrics have no more of them than there are.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "OTHER"
}
