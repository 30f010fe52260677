package watch

import (
	"sync"
	"time"
)

// forgetRequest is when a request counts as one that etcd has dropped.
const forgetRequest = time.Minute

// progressRequests are the progress requests of one stream. etcd answers them in order, each once or, while a watch of the
// stream is catching up, not at all, and an answer does not say which request it is for. It is taken for an answer to the
// oldest request that may be unanswered, so what is derived from it is never too young.
type progressRequests struct {
	answered chan struct{} // holds one: an answer has come

	mu     sync.Mutex
	sent   []time.Time // the oldest first
	latest time.Time   // what the last answer was taken for
}

func newProgressRequests() *progressRequests {
	return &progressRequests{answered: make(chan struct{}, 1)}
}

// add notes a request that is about to be sent.
func (r *progressRequests) add() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, time.Now())
}

// answer notes an answer, and returns when the request was sent that it is taken for: everything that had happened by then
// was delivered. It is zero if that is not known.
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

// notify puts a token into a channel that holds one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
