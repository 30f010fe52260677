package watch

import (
	"sync"
	"time"
)

// forgetRequest is the age at which an unanswered request counts as dropped by etcd.
const forgetRequest = time.Minute

// progressRequests are the progress requests of one stream. etcd answers them in order and at most
// once each. It does not answer while a watch of the stream is catching up, and an answer does not
// say which request it is for. Each answer is therefore taken for one to the oldest request that
// may be unanswered, so the time derived from it may be too early, never too late.
type progressRequests struct {
	answered chan struct{} // holds one: an answer has arrived

	mu     sync.Mutex
	sent   []time.Time // oldest first
	latest time.Time   // when the request was sent for which the last answer was taken
}

func newProgressRequests() *progressRequests {
	return &progressRequests{answered: make(chan struct{}, 1)}
}

// add records a request. It must be called before the request is sent.
func (r *progressRequests) add() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, time.Now())
}

// answer records an answer and returns when its request was sent: every change made by then was
// delivered. It returns the zero time if that is unknown.
func (r *progressRequests) answer() (asOf time.Time) {
	notify(r.answered)
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.sent) > 0 && time.Since(r.sent[0]) > forgetRequest {
		r.sent = r.sent[1:]
	}
	if len(r.sent) > 0 {
		r.latest, r.sent = r.sent[0], r.sent[1:]
	}
	return r.latest
}

// notify puts a token into a channel of capacity 1, if it is empty.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
