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

	// leaderlessAgain is how long after it said that it has no leader a member is asked again.
	leaderlessAgain = 200 * time.Millisecond
)

// errSlow says of an endpoint that it was not waited for.
var errSlow = errors.New("no answer yet")

// rollCall is what Open knows of each endpoint.
type rollCall struct {
	heard  []bool
	result []error // nil where heard: it serves and has a leader
}

// word is what one endpoint said.
type word struct {
	at  int
	err error
}

// rollCall asks all endpoints at once and returns those that answer and have a leader, and what is wrong with the
// others. Once one has answered so, the rest have a short time left. A member without a leader does not start that
// time: it may be cut off from the others, which are well.
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

// answer tells what ep says, again and again as long as that is that it has no leader.
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

// collect listens until every endpoint has said something, or the time that the slow ones have is over.
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
			continue // it was asked again, but in vain: what it said before stands
		}
		r.result[w.at] = w.err
	}
}

// leaderless reports whether err is that of a member that knows of no leader.
func leaderless(err error) bool {
	if err == nil {
		return false
	}
	return strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
}
