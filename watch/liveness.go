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

// The times of a stream that watches share.
const (
	idleInterval  = 30 * time.Second      // ±20 %: progress is requested even if nobody needs an answer
	answerTimeout = 4 * time.Second       // a stream is dead if nothing has come for so long after a request
	probeDelay    = 2 * time.Second       // without progress, a watch is created to see whether the stream answers that
	retryProgress = 20 * time.Millisecond // a request that somebody waits for is repeated
	retryUnneeded = time.Second           // and one that nobody waits for
	jitterPercent = 20
)

// liveness finds out whether a stream answers. It sends nothing but one progress request every idleInterval, and one
// when an answer is needed. See docs/watch-protocol.md.
type liveness struct {
	seat   *seat
	wg     *sync.WaitGroup
	needed chan struct{} // holds one: somebody needs an answer

	patience time.Duration // without an answer the stream is dead
	byWatch  bool          // a watch that is created says more than the lack of progress
	paused   atomic.Bool   // the only watch of the stream reads history
}

// newLiveness returns the liveness of a stream. One over a Watcher of the user's has one watch only, whose creation says
// nothing about another.
func newLiveness(s *seat, wg *sync.WaitGroup, patience time.Duration, byWatch bool) *liveness {
	return &liveness{seat: s, wg: wg, needed: make(chan struct{}, 1), patience: patience, byWatch: byWatch}
}

// need asks for an answer of the stream. It does not wait.
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

// jittered is d ±20 %, so that many processes do not ask at once.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)*2*jitterPercent/100)) - d*jitterPercent/100
}

// check requests progress and waits for the answer. That etcd does not answer proves little, since it does not while a
// watch of the stream lags. So a watch is created then, which etcd confirms in any case, and cancelled. Once it is
// confirmed, etcd has longer to answer.
func (l *liveness) check(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	requests := l.seat.src.requests()
	select {
	case <-requests.answered: // of earlier
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
			created = nil // if it failed, so does the stream, or it is silent
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

// isNeeded reports whether somebody has asked for an answer since the last look.
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
	_ = l.seat.src.progress(ctx) // what is wrong with the stream shows in its watches
}

// create creates a watch that delivers nothing, and cancels it once it is confirmed or refused, which is the result. It
// returns nil if it is not known yet what may be watched on the stream.
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

// wasRefused reports whether err is the server's answer to a request for a watch.
func wasRefused(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	_, compacted := errors.AsType[*compaction](err)
	return refused || compacted
}
