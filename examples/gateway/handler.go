package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"
)

// request is a request that has reached its endpoint.
type request struct {
	*http.Request

	params map[string]string // from the path
	query  map[string]string // those of the endpoint's parameters that are set
	body   []byte            // nil if the endpoint takes none
	out    *recorder
}

// response is what an endpoint returns on success.
type response struct {
	status int // 0 means 200
	data   any // in the envelope

	bare        []byte // instead of the envelope
	contentType string // of bare

	header map[string]string
}

// ServeHTTP answers one request.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	out := &recorder{ResponseWriter: w}
	defer out.release()
	head := out.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	r.Body = http.MaxBytesReader(w, r.Body, s.set.Gateway.Limits.BodyBytes)
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	pattern, a, err := s.route(r, out)
	if err == nil {
		err = out.write(&a)
	}
	if err != nil {
		out.writeError(s.refusalOf(r.Context(), err))
	}
	s.metrics.count(pattern, r.Method, out.status, time.Since(start))
	s.logAccess(r, pattern, out, time.Since(start))
}

// route checks the path, the caller and the method, and runs the endpoint. pattern is that of the
// route, "" if none matches.
func (s *service) route(r *http.Request, out *recorder) (pattern string, a response, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(r.Context(), "request panicked",
				"route", pattern, "panic", p, "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	segments, endsInSlash, err := segmentsOf(r.URL.EscapedPath())
	if err != nil {
		return "", a, withKeyHint(r, err)
	}
	route, params := s.match(segments)
	if route == nil || !route.public {
		if err := s.authenticate(r); err != nil {
			return "", a, err
		}
	}
	if route == nil {
		return "", a, &refusal{status: http.StatusNotFound, code: "no_route", text: "there is no such path"}
	}
	if endsInSlash && !route.slash {
		return route.pattern, a, withKeyHint(r, badPath("it ends in a slash"))
	}
	e, ok := route.endpoint(r.Method)
	if !ok {
		return route.pattern, a, &refusal{
			status: http.StatusMethodNotAllowed, code: "bad_method", text: "the allowed methods are " + route.allow(),
			header: map[string]string{"Allow": route.allow()},
		}
	}
	a, err = s.work(r, out, route, e, params)
	return route.pattern, a, err
}

// work runs an endpoint. The request keeps its slot until the answer is written, since an answer
// that its client does not read stays in memory as long.
func (s *service) work(
	r *http.Request, out *recorder, route *route, e endpoint, params map[string]string,
) (response, error) {
	query, err := parseQuery(r.URL.RawQuery, e.query)
	if err == nil {
		err = checkConditions(r, e.conditions)
	}
	var body []byte
	if err == nil && e.body {
		body, err = s.receive(r)
	}
	if err != nil {
		return response{}, err
	}
	if !route.public {
		select {
		case s.slots <- struct{}{}:
			out.onRelease(func() { <-s.slots })
		default:
			return response{}, tooBusy("too many requests are in progress")
		}
	}
	// The context has no deadline, which would override the timeouts of the configuration.
	ctx, stop := context.WithCancelCause(r.Context())
	defer stop(nil)
	limit := time.Duration(s.set.Gateway.Limits.Request)
	timer := time.AfterFunc(limit, func() { stop(errTooSlow) })
	defer timer.Stop()
	a, err := e.serve(&request{Request: r.WithContext(ctx), params: params, query: query, body: body, out: out})
	if err != nil && errors.Is(context.Cause(ctx), errTooSlow) {
		err = fmt.Errorf("%w: %w", errTooSlow, err)
	}
	return a, err
}

// tooBusy refuses a request that the client should repeat later.
func tooBusy(text string) error {
	return &refusal{
		status: http.StatusTooManyRequests, code: "busy", text: text,
		header: map[string]string{"Retry-After": "1"},
	}
}

// errTooSlow is the cause of the context of a request that took too long.
var errTooSlow = errors.New("the request took too long")
