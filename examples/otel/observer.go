package main

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// observer returns an observer that makes each operation a span below that of its caller, such as
// "lock wait", and each repeated request an event of it. Spans have the names of locks, services
// and dirs, but neither keys nor values.
func observer(tracer trace.Tracer) etcdkit.Observer {
	return etcdkit.Observer{
		Operation: func(ctx context.Context, op etcdkit.Operation) (context.Context, func(etcdkit.OperationResult)) {
			ctx, span := tracer.Start(ctx, op.Package+" "+op.Name, trace.WithAttributes(attribute.String("etcdkit.target", op.Target)))
			return ctx, func(r etcdkit.OperationResult) {
				span.SetAttributes(attribute.Int("etcdkit.attempts", r.Attempts), attribute.Int64("etcdkit.revision", r.Revision))
				if r.Err != nil {
					span.SetStatus(codes.Error, condition(r.Err))
				}
				span.End()
			}
		},
		Retry: func(ctx context.Context, op etcdkit.Operation, attempt int, err error) {
			trace.SpanFromContext(ctx).AddEvent("retry", trace.WithAttributes(attribute.String("etcdkit.request", op.Package+" "+op.Name),
				attribute.Int("etcdkit.attempt", attempt), attribute.String("etcdkit.error", condition(err))))
		},
	}
}

// condition returns what err matches. The text of err may contain keys.
func condition(err error) string {
	for _, known := range []error{
		kv.ErrNotFound, kv.ErrExists, kv.ErrConflict, lock.ErrLost, etcdkit.ErrUnknownOutcome, etcdkit.ErrUnavailable, etcdkit.ErrPermission,
		etcdkit.ErrUnauthenticated, etcdkit.ErrClosed, etcdkit.ErrInvalid, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "other error"
}
