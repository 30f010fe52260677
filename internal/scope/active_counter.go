package scope

import (
	"context"
	"sync"
)

// activeCounter counts running calls. Unlike with a sync.WaitGroup, a call may start at any time,
// even during wait. The zero value is ready for use.
type activeCounter struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n drops to 0; nil if nothing waits
}

func (a *activeCounter) add() {
	a.mu.Lock()
	a.n++
	a.mu.Unlock()
}

func (a *activeCounter) done() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n--
	if a.n == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

// wait blocks until no call is running or ctx ends.
func (a *activeCounter) wait(ctx context.Context) error {
	a.mu.Lock()
	if a.n == 0 {
		a.mu.Unlock()
		return nil
	}
	if a.idle == nil {
		a.idle = make(chan struct{})
	}
	idle := a.idle
	a.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
