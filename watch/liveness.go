package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Intervals and timeouts of a shared stream.
const (
	idleInterval  = 30 * time.Second      // ±20 %: between requests that nobody needs
	answerTimeout = 4 * time.Second       // a stream is dead after this long without an answer
	probeDelay    = 2 * time.Second       // without a progress report, a watch is created as a probe
	retryProgress = 20 * time.Millisecond // interval of repeated requests while a caller waits
	retryUnneeded = time.Second           // interval of other repeated requests
	jitterPercent = 20
)

// liveness detects a stream that does not answer. It requests progress every idleInterval, and when
// an answer is needed, and repeats a request that is not answered. See docs/watch-protocol.md.
type liveness struct {
	seat   *seat
	wg     *sync.WaitGroup
	needed chan struct{} // holds one: an answer is needed

	patience time.Duration // the stream is dead after this long without a message
	byWatch  bool          // without progress, a watch is created as a probe
	paused   atomic.Bool   // the only watch of the stream is catching up
}

// newLiveness returns the liveness of a stream. byWatch must be false over a Watcher of the user:
// each watch is treated as a stream of its own, and creating another one proves nothing about it.
func newLiveness(s *seat, wg *sync.WaitGroup, patience time.Duration, byWatch bool) *liveness {
	return &liveness{seat: s, wg: wg, needed: make(chan struct{}, 1), patience: patience, byWatch: byWatch}
}

// need requests an answer of the stream. It does not wait.
func (s *seat) need() { notify(s.liveness.needed) }

// run checks the stream until it is retired or ctx ends. It returns an error if the stream is dead.
func (l *liveness) run(ctx context.Context) error {
	timer := time.NewTimer(jittered(idleInterval))
	defer timer.Stop()
	for {
		select {
		case <-l.needed:
		case <-timer.C:
		case <-l.seat.gone:
			return nil
		case <-ctx.Done():
			return nil
		}
		if !l.paused.Load() {
			if err := l.check(ctx); err != nil {
				return err
			}
		}
		timer.Reset(jittered(idleInterval))
	}
}

// jittered returns d ±20 %, so that many processes do not send at the same time.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)*2*jitterPercent/100)) - d*jitterPercent/100
}

// check requests progress and waits for the answer. A missing answer proves little, because etcd
// does not answer while a watch of the stream is catching up. If byWatch is set, check therefore
// creates a watch after probeDelay, which etcd confirms in any case, and cancels it. Once that
// watch is confirmed or refused, etcd has patienceMost to report progress.
func (l *liveness) check(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	requests := l.seat.src.requests()
	select {
	case <-requests.answered: // to an earlier request
	default:
	}
	began := time.Now()
	l.request(ctx)
	last, probed := began, false
	tick := time.NewTicker(retryProgress)
	defer tick.Stop()
	var created chan error
	patience := l.patience
	for {
		select {
		case <-requests.answered:
			return nil
		case err := <-created:
			if err == nil || wasRefused(err) {
				patience = patienceMost
			}
			created = nil // on failure, the stream fails too, or is silent
		case <-tick.C:
			waited := time.Since(began)
			if waited >= patienceMost || min(waited, l.seat.silent()) >= patience {
				return fmt.Errorf("%w to progress requests for %v", errNoAnswer, waited.Round(time.Millisecond))
			}
			if l.byWatch && !probed && waited >= probeDelay {
				created, probed = l.create(ctx), true
			}
			if l.isNeeded() || time.Since(last) >= retryUnneeded {
				l.request(ctx)
				last = time.Now()
			}
		case <-l.seat.gone:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// isNeeded reports whether an answer was requested since the last call.
func (l *liveness) isNeeded() bool {
	select {
	case <-l.needed:
		return true
	default:
		return false
	}
}

// request requests progress.
func (l *liveness) request(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, askWithin)
	defer stop()
	_ = l.seat.src.progress(ctx) // an error of the stream ends its watches
}

// create creates a watch that delivers nothing, and cancels it once it is confirmed. The result is
// nil or the error. create returns a nil channel if the stream has had no watch yet, so that no key
// is known to be permitted.
func (l *liveness) create(ctx context.Context) (result chan error) {
	k := l.seat.key.Load()
	if k == nil {
		return nil
	}
	nothing := *k
	nothing.prev, nothing.puts, nothing.deletes = false, true, true
	result = make(chan error, 1)
	l.wg.Go(func() {
		st, err := l.seat.open(ctx, l.wg, nothing, start{}, patienceMost)
		if err == nil {
			st.stop()
		}
		result <- err
	})
	return result
}

// wasRefused reports whether err is the server's answer to the creation of a watch.
func wasRefused(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	_, compacted := errors.AsType[*compaction](err)
	return refused || compacted
}
