// Package notify wakes goroutines.
package notify

import "sync/atomic"

// Token puts a token into c, a channel of capacity 1, if it is empty.
func Token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Broadcast wakes all goroutines that wait for it. It is safe for concurrent use.
type Broadcast struct{ ch atomic.Pointer[chan struct{}] }

// NewBroadcast returns a Broadcast that nobody waits for.
func NewBroadcast() *Broadcast {
	b := &Broadcast{}
	ch := make(chan struct{})
	b.ch.Store(&ch)
	return b
}

// Wait returns a channel that the next call of Notify closes.
func (b *Broadcast) Wait() <-chan struct{} { return *b.ch.Load() }

// Notify wakes all goroutines that wait for a channel of Wait.
func (b *Broadcast) Notify() {
	next := make(chan struct{})
	close(*b.ch.Swap(&next))
}
