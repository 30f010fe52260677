package lease

import "context"

// sessionContext is the context of a session. It is a cancellable context of the standard library, so that contexts
// derived from it hang on to that without a goroutine each, but its Err also looks at the clock.
type sessionContext struct {
	context.Context //nolint:containedctx // it is one

	s *Session
}

// Err is nil while the session can be relied on. Whoever is told otherwise finds Done closed and the cause set.
func (c sessionContext) Err() error {
	if cause := c.s.Err(); cause != nil {
		c.s.cancel(cause) // may be ahead of whoever ended the session a moment ago
	}
	return c.Context.Err()
}
