package main

import (
	"net/http"
	"time"
)

// maxLoggedPath bounds how much of a path is logged.
const maxLoggedPath = 256

// logAccess logs a request, without its query, headers and body, which may hold secrets.
func (s *service) logAccess(r *http.Request, route string, w *recorder, took time.Duration) {
	path := r.URL.EscapedPath()
	if len(path) > maxLoggedPath {
		path = path[:maxLoggedPath] + "..."
	}
	s.log.InfoContext(r.Context(), "request", "method", knownMethod(r.Method), "path", path, "route", route,
		"status", w.status, "bytes", w.bytes, "seconds", took.Seconds(), "remote", r.RemoteAddr)
}

// knownMethod returns m, or OTHER for a method that HTTP does not define. It bounds the number of
// series.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions:
		return m
	}
	return "OTHER"
}
