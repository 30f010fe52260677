package parttest

import (
	"slices"
	"sync"
	"testing"
)

// Recorder records values. It is safe for concurrent use.
type Recorder[E any] struct {
	mu   sync.Mutex
	list []E
}

// Add appends a value.
func (r *Recorder[E]) Add(e E) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
}

// All returns the values in order.
func (r *Recorder[E]) All() []E {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// Await waits for the n-th value, counted from 1, and returns it.
func (r *Recorder[E]) Await(tb testing.TB, n int) E {
	tb.Helper()
	Eventually(tb, func() bool { return len(r.All()) >= n })
	return r.All()[n-1]
}
