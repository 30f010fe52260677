package cache

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// readIndex reads the current revision of etcd. There is one read at a time, and each read serves
// only callers that arrived before it started. A caller that finds none in progress reads on its
// own goroutine, because waking another one takes about a tenth of the time of the read. Callers
// that arrive meanwhile share the next read, which does not depend on the context of any of them.
type readIndex struct {
	read      func(ctx context.Context) (rev int64, reached bool, err error)
	ctx       context.Context //nolint:containedctx // ends all reads
	spawn     func(f func()) bool
	waitErr   func(ctx context.Context) error // the error of a wait that ended with ctx
	closedErr func() error                    // the error once the directory is closed

	mu      sync.Mutex
	running bool
	next    *readIndexCall
}

// readIndexCall is one read of the revision, shared by all callers that wait for it.
type readIndexCall struct {
	done    chan struct{}
	rev     int64
	reached bool // everything up to rev was delivered and handled
	err     error
}

// wait returns the revision of a read that starts after the call, and whether the watch has reached
// it.
func (r *readIndex) wait(ctx context.Context) (rev int64, reached bool, err error) {
	if err := retry.ContextError(ctx); err != nil {
		return 0, false, err
	}
	call := r.joinNext()
	if call == nil {
		return r.readNow(ctx)
	}
	select {
	case <-call.done:
		return call.rev, call.reached, call.err
	case <-ctx.Done():
		return 0, false, r.waitErr(ctx)
	}
}

// joinNext returns the next read. It returns nil if no read is in progress: then the caller must
// make one and call startNext afterwards.
func (r *readIndex) joinNext() *readIndexCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running {
		r.running = true
		return nil
	}
	if r.next == nil {
		r.next = &readIndexCall{done: make(chan struct{})}
	}
	return r.next
}

// readNow reads for one caller, until its ctx or that of all reads ends.
func (r *readIndex) readNow(ctx context.Context) (rev int64, reached bool, err error) {
	defer r.startNext()
	if r.ctx.Err() != nil {
		return 0, false, r.closedErr()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(r.ctx, stop)()
	return r.read(ctx)
}

// startNext starts the read for callers that arrived during readNow.
func (r *readIndex) startNext() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil && r.spawn(r.run) {
		return
	}
	if call := r.next; call != nil {
		call.err = r.closedErr()
		close(call.done)
	}
	r.next, r.running = nil, false
}

// run reads while there are waiting callers.
func (r *readIndex) run() {
	for {
		r.mu.Lock()
		call := r.next
		r.next = nil
		if call == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		call.rev, call.reached, call.err = r.read(r.ctx)
		close(call.done)
	}
}

// probeKey is the key of a read of which only the revision matters. It need not exist.
const probeKey = "."

// maxCatchUpWait is short, because callers of the next read wait for it too.
const maxCatchUpWait = 250 * time.Millisecond

// currentRevision makes a linearizable read of the current revision: one RPC, which returns no
// values. Then it waits up to maxCatchUpWait for the watch to reach that revision.
func (d *watchedDir) currentRevision(ctx context.Context) (rev int64, reached bool, err error) {
	rev, err = d.readRevision(ctx)
	switch {
	case d.closed():
		return 0, false, d.closedError()
	case err != nil:
		return 0, false, errs.Cause(err)
	}
	if d.isLive() {
		ctx, stop := context.WithTimeout(ctx, maxCatchUpWait)
		defer stop()
		reached = d.wait(ctx, rev) == nil
	}
	return rev, reached, nil
}

// readRevision counts a key. The header of the response contains the current revision.
func (d *watchedDir) readRevision(ctx context.Context) (rev int64, err error) {
	sender, err := retry.SenderOf(d.store)
	if err != nil {
		return 0, err
	}
	call := retry.Call{Pkg: "cache", Op: "read revision", Dir: d.store.Dir(), Key: probeKey, Read: true}
	get := clientv3.OpGet(call.Dir+probeKey, clientv3.WithCountOnly())
	return retry.Do(ctx, sender.Engine, call, func(ctx context.Context, _ bool) (int64, error) {
		resp, err := sender.KV.Do(ctx, get)
		if err != nil {
			return 0, err
		}
		return resp.Get().Header.GetRevision(), nil
	})
}
