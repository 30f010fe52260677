package etcdkit

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// graceForRest is how long Open waits for the other endpoints once one has answered.
	graceForRest = 200 * time.Millisecond

	// leaderlessAgain is the interval at which a member without a leader is queried again.
	leaderlessAgain = 200 * time.Millisecond
)

// errSlow means that Open did not wait for an endpoint.
var errSlow = errors.New("no answer yet")

// rollCall holds the results of the probes of Open.
type rollCall struct {
	heard  []bool
	result []error // nil if heard: it serves and has a leader
}

// word is the result of probing one endpoint.
type word struct {
	at  int
	err error
}

// rollCall probes all endpoints concurrently. It returns those that answer and have a leader, and
// the errors of the others. Once one has answered and has a leader, the others have 200 ms left. A
// member without a leader does not start that time, because it may be partitioned from a healthy
// majority.
func (c *core) rollCall(ctx context.Context) (alive []string, rest endpointErrors) {
	eps := c.set.endpoints
	ctx, stop := context.WithCancelCause(ctx)
	words := make(chan word)
	over := make(chan struct{})
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() {
			c.answer(ctx, ep, func(err error) {
				select {
				case words <- word{i, err}:
				case <-over:
				}
			})
		})
	}
	r := rollCall{heard: make([]bool, len(eps)), result: make([]error, len(eps))}
	r.collect(ctx, words, stop)
	close(over)
	stop(nil)
	wg.Wait()
	for i, ep := range eps {
		if r.result[i] == nil {
			alive = append(alive, ep)
			continue
		}
		rest = append(rest, &EndpointError{Endpoint: ep, Err: r.result[i]})
	}
	return alive, rest
}

// answer probes ep and passes the result to tell. It repeats this while the member has no leader.
func (c *core) answer(ctx context.Context, ep string, tell func(error)) {
	again := time.NewTicker(leaderlessAgain)
	defer again.Stop()
	for {
		err := c.lines.explain(clientv3.WithRequireLeader(ctx), ep)
		tell(err)
		if !leaderless(err) {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// collect receives results until every endpoint has one, or the slow ones are canceled.
func (r *rollCall) collect(ctx context.Context, words <-chan word, stop context.CancelCauseFunc) {
	var grace *time.Timer
	defer func() {
		if grace != nil {
			grace.Stop()
		}
	}()
	for silent := len(r.heard); silent > 0; {
		w := <-words
		if w.err == nil && grace == nil {
			grace = time.AfterFunc(graceForRest, func() { stop(errSlow) })
		}
		if w.err != nil && errors.Is(context.Cause(ctx), errSlow) {
			w.err = errSlow
		}
		switch {
		case !r.heard[w.at]:
			r.heard[w.at] = true
			silent--
		case ctx.Err() != nil:
			continue // the repeated probe was canceled: keep the earlier result
		}
		r.result[w.at] = w.err
	}
}

// leaderless reports whether err comes from a member without a leader.
func leaderless(err error) bool {
	if err == nil {
		return false
	}
	return strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
}
