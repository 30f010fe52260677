package main

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/kv"
)

// refusal is an error as it is told.
type refusal struct {
	status int
	code   string
	text   string
	header map[string]string
}

// Error is the text.
func (r *refusal) Error() string { return r.text }

// conditions is what becomes of etcdkit's errors, in this order: the first that matches is told. Where there is no text the
// error's own is, which names the key and the limit, but no address of etcd and no value.
//
//nolint:gochecknoglobals // a table
var conditions = []struct {
	is     error
	status int
	code   string
	text   string
}{
	// Before everything else: whatever else such an error says, the write may have been carried out.
	{etcdkit.ErrUnknownOutcome, 504, "unknown_outcome", "the write may have been carried out, or not: read before you repeat it"},

	{kv.ErrNotFound, 404, "not_found", "there is no such key"},
	{kv.ErrExists, 412, "exists", "the key exists"},
	{discovery.ErrTaken, 409, "taken", ""},
	{etcdkit.ErrTooLarge, 413, "too_large", ""},
	{etcdkit.ErrCompacted, 410, "gone", "the revision of these pages is gone from etcd: begin again without a cursor"},
	{etcdkit.ErrPermission, 403, "forbidden", "etcd does not let this gateway do that"},

	{errTooSlow, 503, "too_slow", "this took too long; nothing was changed"},
	{etcdkit.ErrUnauthenticated, 503, "unavailable", "etcd does not accept this gateway's credentials"},
	{etcdkit.ErrUnavailable, 503, "unavailable", "etcd does not answer; nothing was changed"},
	{cache.ErrStale, 503, "unavailable", "what is in memory is too old"},
	{etcdkit.ErrClosed, 503, "closing", "the gateway is stopping"},
	{context.Canceled, 503, "closing", "the request was called off"},

	{etcdkit.ErrInvalid, 400, "invalid", ""},
}

// refusalOf is the one place that says which status an error has.
func (s *service) refusalOf(ctx context.Context, err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{status: 413, code: "too_large", text: "the body is too large"}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{status: 408, code: "slow_body", text: "the body did not arrive in time", header: map[string]string{"Connection": "close"}}
	}
	if r := conflict(err); r != nil {
		return r
	}
	for _, c := range conditions {
		if !errors.Is(err, c.is) {
			continue
		}
		r := &refusal{status: c.status, code: c.code, text: c.text}
		if r.text == "" {
			r.text = err.Error()
		}
		if r.status == http.StatusServiceUnavailable {
			r.header = map[string]string{"Retry-After": "1"}
		}
		if r.status >= http.StatusInternalServerError {
			s.log.WarnContext(ctx, "a request failed", "status", r.status, "error", err)
		}
		return r
	}
	s.log.ErrorContext(ctx, "a request failed", "status", http.StatusInternalServerError, "error", err)
	return &refusal{status: http.StatusInternalServerError, code: "internal", text: "something is wrong here; the log says what"}
}

// conflict is what becomes of a write whose key was not what it was conditional on: a revision that the request has named in
// a header, which is a precondition of HTTP, or a value in its body.
func conflict(err error) *refusal {
	c, ok := errors.AsType[*kv.ConflictError](err)
	switch {
	case !ok || errors.Is(err, etcdkit.ErrUnknownOutcome):
		return nil
	case c.Want != 0:
		return &refusal{status: http.StatusPreconditionFailed, code: "changed", text: c.Error()}
	}
	return &refusal{status: http.StatusConflict, code: "conflict", text: c.Error()}
}
