package watchstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Intervals and timeouts of a shared stream.
const (
	idleInterval = 30 * time.Second // ±20 %: between requests that nobody needs
	// A stream is dead after this long without a response.
	responseTimeout = 4 * time.Second
	// Without a progress report for this long, a watch is created as a probe.
	probeDelay = 2 * time.Second
	// The interval of repeated requests while a caller waits.
	progressRetryInterval     = 20 * time.Millisecond
	idleProgressRetryInterval = time.Second // interval of other repeated requests
	jitterPercent             = 20
)

// livenessChecker detects a stream that does not respond. It requests progress every idleInterval,
// and when an answer is needed, and repeats a request that is not answered. See
// docs/watch-protocol.md.
type livenessChecker struct {
	stream    *Stream
	wg        *sync.WaitGroup
	requested chan struct{} // holds one: a response is needed

	timeout      time.Duration // the stream is dead after this long without a message
	probeByWatch bool          // without progress, a watch is created as a probe
	paused       atomic.Bool   // the only watch of the stream is catching up
}

// newLivenessChecker returns the checker of a stream. probeByWatch must be false over a Watcher of
// the user: each watch is treated as a stream of its own, and creating another one proves nothing
// about it.
func newLivenessChecker(s *Stream, wg *sync.WaitGroup, timeout time.Duration, probeByWatch bool) *livenessChecker {
	return &livenessChecker{stream: s, wg: wg, requested: make(chan struct{}, 1), timeout: timeout, probeByWatch: probeByWatch}
}

// run checks the stream until it is retired or ctx ends. It returns an error if the stream is dead.
func (l *livenessChecker) run(ctx context.Context) error {
	timer := time.NewTimer(jittered(idleInterval))
	defer timer.Stop()
	for {
		select {
		case <-l.requested:
		case <-timer.C:
		case <-l.stream.Retired:
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
// does not answer while a watch of the stream is catching up. If probeByWatch is set, check
// therefore creates a watch after probeDelay, which etcd confirms in any case, and cancels it. Once
// that watch is confirmed or refused, etcd has maxSilenceTimeout to report progress.
func (l *livenessChecker) check(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	tracker := l.stream.transport.progressTracker()
	select {
	case <-tracker.responded: // to an earlier request
	default:
	}
	startedAt := time.Now()
	l.requestProgress(ctx)
	lastRequest, probed := startedAt, false
	tick := time.NewTicker(progressRetryInterval)
	defer tick.Stop()
	var probeResult chan error
	timeout := l.timeout
	for {
		select {
		case <-tracker.responded:
			return nil
		case err := <-probeResult:
			if err == nil || isRefusal(err) {
				timeout = maxSilenceTimeout
			}
			probeResult = nil // on failure, the stream fails too, or is silent
		case <-tick.C:
			waited := time.Since(startedAt)
			if waited >= maxSilenceTimeout || min(waited, l.stream.silence()) >= timeout {
				return fmt.Errorf("%w to progress requests for %v", ErrNoResponse, waited.Round(time.Millisecond))
			}
			if l.probeByWatch && !probed && waited >= probeDelay {
				probeResult, probed = l.probe(ctx), true
			}
			if l.takeRequest() || time.Since(lastRequest) >= idleProgressRetryInterval {
				l.requestProgress(ctx)
				lastRequest = time.Now()
			}
		case <-l.stream.Retired:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// takeRequest reports whether an answer was requested since the last call.
func (l *livenessChecker) takeRequest() bool {
	select {
	case <-l.requested:
		return true
	default:
		return false
	}
}

// requestProgress requests progress.
func (l *livenessChecker) requestProgress(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, progressSendTimeout)
	defer stop()
	_ = l.stream.transport.requestProgress(ctx) // an error of the stream ends its watches
}

// probe creates a watch that delivers nothing, and cancels it once it is confirmed. The result is
// nil or the error. probe returns a nil channel if the stream has had no watch yet, so that no key
// is known to be permitted.
func (l *livenessChecker) probe(ctx context.Context) (result chan error) {
	spec := l.stream.lastKey.Load()
	if spec == nil {
		return nil
	}
	nothing := *spec
	nothing.PrevValue, nothing.PutsOnly, nothing.DeletesOnly = false, true, true
	result = make(chan error, 1)
	l.wg.Go(func() {
		w, err := l.stream.open(ctx, l.wg, nothing, Start{}, maxSilenceTimeout)
		if err == nil {
			w.Cancel()
		}
		result <- err
	})
	return result
}
