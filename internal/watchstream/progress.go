package watchstream

import (
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/notify"
)

// progressRequestTimeout is the age at which an unanswered request counts as dropped by etcd.
const progressRequestTimeout = time.Minute

// progressTracker tracks the progress requests of one stream. etcd answers them in order and at
// most once each. It does not answer while a watch of the stream is catching up, and an answer does
// not say which request it is for. Each answer is therefore taken for one to the oldest request
// that may be unanswered, so the time derived from it may be too early, never too late.
type progressTracker struct {
	responded chan struct{} // holds one: a response has arrived

	mu           sync.Mutex
	pending      []time.Time // oldest first
	lastAnswered time.Time   // when the request was sent for which the last answer was taken
}

func newProgressTracker() *progressTracker {
	return &progressTracker{responded: make(chan struct{}, 1)}
}

// recordRequest records a request. It must be called before the request is sent.
func (r *progressTracker) recordRequest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, time.Now())
}

// recordResponse records an answer and returns when its request was sent: every change made by then
// was delivered. It returns the zero time if that is unknown.
func (r *progressTracker) recordResponse() (completeAt time.Time) {
	notify.Token(r.responded)
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pending) > 0 && time.Since(r.pending[0]) > progressRequestTimeout {
		r.pending = r.pending[1:]
	}
	if len(r.pending) > 0 {
		r.lastAnswered, r.pending = r.pending[0], r.pending[1:]
	}
	return r.lastAnswered
}
