package kv

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// batchRun is the state of one batch.
type batchRun struct {
	*Store

	ctx      context.Context //nolint:containedctx // valid until the call returns
	ops      []Op
	results  []OpResult
	inFlight chan struct{} // holds one element for each transaction in flight
	wg       sync.WaitGroup

	mu            sync.Mutex
	firstErr      error // the error of the first transaction in ops that failed
	firstErrIndex int   // the index of the first operation of that transaction
	lastRevision  int64 // the revision of the last applied transaction
}

// run sends the transactions and returns the error of the batch.
func (b *batchRun) run() error {
	keys := make(map[string]bool) // written by the transactions sent since the last wait for all
	sent := 0
	for sent < len(b.ops) {
		n := b.chunkLen(b.ops[sent:])
		if cap(b.inFlight) > 1 {
			b.waitForKeys(keys, b.ops[sent:sent+n])
		}
		b.inFlight <- struct{}{}
		if b.hasFailed() {
			<-b.inFlight
			break
		}
		if cap(b.inFlight) == 1 {
			b.apply(sent, n)
			<-b.inFlight
		} else {
			from := sent
			b.wg.Go(func() {
				defer func() { <-b.inFlight }()
				b.apply(from, n)
			})
		}
		sent += n
	}
	b.wg.Wait()
	b.notifyWrites(sent)
	return b.finish(sent)
}

// waitForKeys adds the keys of ops to keys. If keys contains one of them already, a transaction in
// flight may write it: waitForKeys first waits for all transactions in flight and clears keys.
func (b *batchRun) waitForKeys(keys map[string]bool, ops []Op) {
	for i := range ops {
		if keys[ops[i].key] {
			b.wg.Wait()
			clear(keys)
			break
		}
	}
	for i := range ops {
		keys[ops[i].key] = true
	}
}

func (b *batchRun) hasFailed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.firstErr != nil
}

// apply sends the transaction of the n operations from index from, and stores their results.
func (b *batchRun) apply(from, n int) {
	ops, results := b.ops[from:from+n], b.results[from:from+n]
	out, err := b.applyChunk(b.ctx, ops)
	for i := range ops {
		results[i] = OpResult{Revision: out.rev, Err: err}
		if err != nil {
			results[i].Revision = 0
		} else if ops[i].delete && out.resp != nil && out.resp.Responses[i].GetResponseDeleteRange().GetDeleted() == 0 {
			results[i].Revision = 0
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.lastRevision = max(b.lastRevision, out.rev)
	case b.firstErr == nil || from < b.firstErrIndex:
		b.firstErr, b.firstErrIndex = err, from
	}
}

// notifyWrites calls the write hooks of the operations that were applied or may have been, on the
// caller's goroutine.
func (b *batchRun) notifyWrites(sent int) {
	for i := range b.ops[:sent] {
		r := &b.results[i]
		if b.ops[i].onWrite != nil && (r.Err == nil || errors.Is(r.Err, ErrUnknownOutcome)) {
			b.ops[i].onWrite(b.ctx, r.Revision)
		}
	}
}

// finish marks the operations that were not sent, and returns the error of the batch.
func (b *batchRun) finish(sent int) error {
	if b.firstErr == nil {
		return nil
	}
	done, notApplied := b.firstErrIndex, b.lastRevision == 0
	for i := range b.results {
		r := &b.results[i]
		if i >= sent {
			r.Err = ErrNotSent
		}
		notApplied = notApplied && !errors.Is(r.Err, ErrUnknownOutcome)
	}
	return &errs.Error{
		Pkg: "kv", Op: "batch", Key: b.ns + b.ops[done].key, NotApplied: notApplied,
		Err: &BatchError{Done: done, Revision: b.lastRevision, Err: errs.Cause(b.firstErr)},
	}
}

const (
	// batchOpOverhead is an upper bound for the size of an operation without its key and value.
	batchOpOverhead = 64
	// batchRequestMargin is how far the estimated size of a transaction with several operations
	// must stay below the limit of a request.
	batchRequestMargin = 1 << 10
)

// chunkLen returns how many of ops the next transaction contains, at least one. Its operations have
// the same guards, and no key occurs twice. ops must not be empty.
func (s *Store) chunkLen(ops []Op) int {
	size, count := guardBytes(ops[0].o.guards), 0
	for _, g := range ops[0].o.guards {
		size += 2 * batchOpOverhead * len(g.compares)
	}
	seen := make(map[string]bool)
	once := false
	for i, op := range ops {
		size += (len(s.ns)+len(op.key)+len(op.value))*op.weight() + batchOpOverhead
		count += op.weight()
		once = once || op.o.once
		options := options{guards: op.o.guards, once: once}
		switch {
		case i == 0:
		case seen[op.key], s.limits.request(size+batchRequestMargin) != nil, count+options.additionalOps()-1 > s.limits.TxnOps, !sameGuards(ops[0].o.guards, op.o.guards):
			return i
		}
		seen[op.key] = true
	}
	return len(ops)
}

// applyChunk sends one transaction. If a shared lease does not exist any more, it sends the
// transaction a second time, with new leases.
func (s *Store) applyChunk(ctx context.Context, ops []Op) (out outcome, err error) {
	for first := true; ; first = false {
		leases, err := s.batchLeases(ctx, ops)
		if err != nil {
			return outcome{}, err
		}
		out, err := s.commitChunk(ctx, ops, leases)
		if retry := s.releaseLeases(ctx, err, slices.Collect(maps.Values(leases))...); !retry || !first {
			return out, err
		}
	}
}

// batchLeases returns one lease for each TTL in ops.
func (s *Store) batchLeases(ctx context.Context, ops []Op) (leases map[time.Duration]*ttlLease, err error) {
	writes := make(map[time.Duration]int)
	for i := range ops {
		if ops[i].o.ttlSet {
			writes[ops[i].o.ttl]++
		}
	}
	leases = make(map[time.Duration]*ttlLease, len(writes))
	if len(writes) == 0 {
		return leases, nil
	}
	boundedCtx, cancel := s.withDefaultTimeout(ctx)
	defer cancel()
	for ttl, n := range writes {
		l, err := s.leaseForTTL(boundedCtx, "batch", s.ns+ops[0].key, ttl, n)
		if err != nil {
			s.releaseLeases(ctx, err, slices.Collect(maps.Values(leases))...)
			return nil, err
		}
		leases[ttl] = l
	}
	return leases, nil
}

// commitChunk sends one transaction with the given leases.
func (s *Store) commitChunk(ctx context.Context, ops []Op, leases map[time.Duration]*ttlLease) (outcome, error) {
	m := &mutation{op: "batch", key: s.ns + ops[0].key, guards: ops[0].o.guards, then: make([]clientv3.Op, len(ops))}
	for i := range ops {
		o := ops[i].o
		if o.ttlSet {
			o.lease = leases[o.ttl].id
		}
		m.then[i] = s.batchOp(&ops[i], o)
		m.once = m.once || o.once
		m.hasLease = m.hasLease || o.lease != 0
		s.logWrite(ctx, "batch", ops[i].key, ops[i].value)
	}
	return s.write(ctx, m)
}

// batchOp returns the operation in the form of client/v3.
func (s *Store) batchOp(op *Op, o options) clientv3.Op {
	abs := []byte(s.ns + op.key)
	if op.delete {
		del := clientv3.OpDelete("")
		del.WithKeyBytes(abs)
		return del
	}
	put := putOp(abs, op.value, o)
	if o.sameLease {
		put = keepLease(abs, put)
	}
	return put
}
