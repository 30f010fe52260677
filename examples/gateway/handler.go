package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"
)

// request is a request that has come as far as its endpoint.
type request struct {
	*http.Request

	params map[string]string // from the path
	query  map[string]string // what the endpoint knows, and was given
	body   []byte            // nil where the endpoint takes none
	out    *recorder
}

// answer is what an endpoint says when all is well.
type answer struct {
	status int // 0 is 200
	data   any // in the envelope

	bare        []byte // instead of the envelope
	contentType string // of bare

	header map[string]string
}

// ServeHTTP answers one request: it looks at the path, asks who it is, and hands it to the endpoint.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	out := &recorder{ResponseWriter: w}
	defer out.release()
	head := out.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	r.Body = http.MaxBytesReader(w, r.Body, s.set.Gateway.Limits.BodyBytes)
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	pattern, a, err := s.answer(r, out)
	if err == nil {
		err = out.write(&a)
	}
	if err != nil {
		out.refuse(s.refusalOf(r.Context(), err))
	}
	s.metrics.count(pattern, r.Method, out.status, time.Since(began))
	s.logAccess(r, pattern, out, time.Since(began))
}

// answer is the answer, and the pattern of the route that has given it, "" where none has.
func (s *service) answer(r *http.Request, out *recorder) (pattern string, a answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(r.Context(), "a request panicked", "route", pattern, "panic", p, "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	segments, open, err := segmentsOf(r.URL.EscapedPath())
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
		return "", a, &refusal{status: http.StatusNotFound, code: "no_route", text: "there is nothing here"}
	}
	if open && !route.slash {
		return route.pattern, a, withKeyHint(r, badPath("it ends in a slash"))
	}
	e, ok := route.endpoint(r.Method)
	if !ok {
		return route.pattern, a, &refusal{
			status: http.StatusMethodNotAllowed, code: "bad_method", text: "this can be done here: " + route.allow(),
			header: map[string]string{"Allow": route.allow()},
		}
	}
	a, err = s.work(r, out, route, e, params)
	return route.pattern, a, err
}

// work runs an endpoint. The slot that this takes is free again when the answer is written: one that nobody reads is in
// memory for as long as that.
func (s *service) work(r *http.Request, out *recorder, route *route, e endpoint, params map[string]string) (answer, error) {
	query, err := parseQuery(r.URL.RawQuery, e.query)
	if err == nil {
		err = checkConditions(r, e.conditions)
	}
	var body []byte
	if err == nil && e.body {
		body, err = s.receive(r)
	}
	if err != nil {
		return answer{}, err
	}
	if !route.public {
		select {
		case s.slots <- struct{}{}:
			out.onRelease(func() { <-s.slots })
		default:
			return answer{}, busy("too many requests at a time")
		}
	}
	// Without a deadline: etcdkit gives each read and each write the time that the configuration says, which a deadline
	// would overrule.
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

// busy is the refusal of a request that another time may be right for.
func busy(text string) error {
	return &refusal{status: http.StatusTooManyRequests, code: "busy", text: text, header: map[string]string{"Retry-After": "1"}}
}

// errTooSlow is the cause of a context that ends because a request took too long.
var errTooSlow = errors.New("the request took too long")
