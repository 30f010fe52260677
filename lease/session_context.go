package lease

import "context"

// sessionContext is the context of a session. It wraps a cancelable context of the standard
// library, so that derived contexts need no goroutine each. Its Err method also checks the clock.
type sessionContext struct {
	context.Context //nolint:containedctx // it is one

	s *Session
}

// Err returns nil while the session is valid. Once it returns an error, Done is closed and the
// cause is set.
func (c sessionContext) Err() error {
	if cause := c.s.Err(); cause != nil {
		c.s.cancel(cause) // the goroutine that ended the session may not have called cancel yet
	}
	return c.Context.Err()
}
