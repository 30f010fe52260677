package watch

import "sync/atomic"

// notifier wakes goroutines. Each call of notify wakes all that wait.
type notifier struct{ ch atomic.Pointer[chan struct{}] }

func newNotifier() *notifier {
	n := &notifier{}
	ch := make(chan struct{})
	n.ch.Store(&ch)
	return n
}

// wait returns a channel that the next call of notify closes.
func (n *notifier) wait() <-chan struct{} { return *n.ch.Load() }

func (n *notifier) notify() {
	next := make(chan struct{})
	close(*n.ch.Swap(&next))
}

// notify puts a token into a channel of capacity 1, if it is empty.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
