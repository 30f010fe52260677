package lock

import "context"

// context returns the context that ends with the hold.
func (h *hold) context() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil {
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(h.w.q.l.ctx))
		h.ctx = &holdContext{ctx, h, cancel}
		if h.cause != nil {
			cancel(h.cause)
		}
	}
	return h.ctx
}

// holdContext is the context of a hold. It wraps a cancellable context of the standard library. Its
// Err checks the clock as well.
type holdContext struct {
	context.Context //nolint:containedctx // it is one

	h      *hold
	cancel context.CancelCauseFunc
}

// end ends the context. It does nothing if c is nil.
func (c *holdContext) end(cause error) {
	if c != nil {
		c.cancel(cause)
	}
}

// Err returns nil while the hold is valid.
func (c *holdContext) Err() error {
	if cause := c.h.err(); cause != nil {
		c.cancel(cause) // the goroutine that ended the hold may not have done so yet
	}
	return c.Context.Err()
}
