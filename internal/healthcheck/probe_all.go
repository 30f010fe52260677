package healthcheck

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/endpoint"
)

const (
	// GracePeriod is how long ProbeAll waits for the other endpoints once one has answered.
	GracePeriod = 200 * time.Millisecond

	// leaderlessInterval is the interval at which a member without a leader is probed again.
	leaderlessInterval = 200 * time.Millisecond
)

// errSlow means that ProbeAll did not wait for an endpoint.
var errSlow = errors.New("no answer yet")

// probeResult is the result of probing one endpoint.
type probeResult struct {
	index int
	err   error
}

// ProbeAll probes all endpoints concurrently. It returns those that answer and have a leader, and
// the errors of the others. Once one has answered and has a leader, the others have 200 ms left. A
// member without a leader does not start that time, because it may be partitioned from a healthy
// majority.
func ProbeAll(ctx context.Context, pool *endpoint.Pool, eps []string) (healthy []string, failed endpoint.Errors) {
	ctx, cancel := context.WithCancelCause(ctx)
	results := make(chan probeResult)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() {
			probeUntilLeader(ctx, pool, ep, func(err error) {
				select {
				case results <- probeResult{i, err}:
				case <-done:
				}
			})
		})
	}
	all := collect(ctx, len(eps), results, cancel)
	close(done)
	cancel(nil)
	wg.Wait()
	for i, ep := range eps {
		if all[i] == nil {
			healthy = append(healthy, ep)
			continue
		}
		failed = append(failed, &endpoint.Error{Endpoint: ep, Err: all[i]})
	}
	return healthy, failed
}

// probeUntilLeader probes ep and passes the result to report. It repeats this while the member has
// no leader.
func probeUntilLeader(ctx context.Context, pool *endpoint.Pool, ep string, report func(error)) {
	ticker := time.NewTicker(leaderlessInterval)
	defer ticker.Stop()
	for {
		err := pool.Explain(clientv3.WithRequireLeader(ctx), ep)
		report(err)
		if !IsLeaderless(err) {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// collect receives results until each of n endpoints has one. It cancels the slow ones. It returns
// the last error of each endpoint.
func collect(ctx context.Context, n int, results <-chan probeResult, cancel context.CancelCauseFunc) []error {
	errs, received := make([]error, n), make([]bool, n)
	var grace *time.Timer
	defer func() {
		if grace != nil {
			grace.Stop()
		}
	}()
	for missing := n; missing > 0; {
		r := <-results
		if r.err == nil && grace == nil {
			grace = time.AfterFunc(GracePeriod, func() { cancel(errSlow) })
		}
		if r.err != nil && errors.Is(context.Cause(ctx), errSlow) {
			r.err = errSlow
		}
		switch {
		case !received[r.index]:
			received[r.index] = true
			missing--
		case ctx.Err() != nil:
			continue // the repeated probe was canceled: keep the earlier result
		}
		errs[r.index] = r.err
	}
	return errs
}

// ReadAny makes linearizable reads of key at every endpoint, and repeats failed ones, until one
// succeeds or ctx ends. It reports whether one has succeeded.
func ReadAny(ctx context.Context, pool *endpoint.Pool, eps []string, key string) bool {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // deferred last, so that it runs before wg.Wait
	results := make(chan bool, len(eps))
	for _, ep := range eps {
		wg.Go(func() { results <- readUntilSuccess(ctx, pool, ep, key) })
	}
	for range eps {
		if <-results {
			return true
		}
	}
	return false
}

// readUntilSuccess repeats the read at one endpoint until it succeeds.
func readUntilSuccess(ctx context.Context, pool *endpoint.Pool, ep, key string) bool {
	ticker := time.NewTicker(leaderlessInterval)
	defer ticker.Stop()
	for {
		if err := pool.Read(ctx, ep, key); err == nil {
			return true
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}

// IsLeaderless reports whether err comes from a member without a leader.
func IsLeaderless(err error) bool {
	if err == nil {
		return false
	}
	return strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
}
