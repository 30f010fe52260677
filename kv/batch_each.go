package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// ErrNotSent means that an operation of [Store.BatchEach] was not sent because an earlier one
// failed.
var ErrNotSent = errors.New("not sent")

// OpResult is the result of one operation of [Store.BatchEach].
type OpResult struct {
	// Revision is the revision at which the operation was applied. It is 0 if the operation was not
	// applied, or was a delete that found no key. If [WithOnce] resolved a lost response, such a
	// delete has the revision of its transaction.
	Revision int64
	// Err is nil if the operation was applied. If it matches [ErrUnknownOutcome], the operation may
	// have been applied; otherwise it was not. It is [ErrNotSent] for operations after a failed
	// one.
	Err error
}

// BatchOption is an option of [Store.BatchEach].
type BatchOption func(*batchSettings)

type batchSettings struct {
	inFlight int
}

// maxInFlight is the largest value of WithInFlight.
const maxInFlight = 64

// WithInFlight sends up to n transactions of a batch concurrently, from 1 to 64. Operations on
// different keys may then be applied in any order; those on one key keep their order. This hides
// the latency of the network and of the servers' disks. Default: 1.
func WithInFlight(n int) BatchOption { return func(s *batchSettings) { s.inFlight = n } }

// BatchEach is like [Store.Batch], but returns the result of each operation and can send several
// transactions concurrently. When a transaction fails, BatchEach sends no further ones and waits
// for those in flight. The error is then a [BatchError] whose Done is the number of operations
// before the first one that is not known to be applied. If the operations are invalid, nothing is
// sent and results is nil.
func (s *Store) BatchEach(ctx context.Context, ops []Op, o ...BatchOption) (results []OpResult, err error) {
	ctx, running := s.observe(ctx, "batch")
	defer func() { running.End(err, 0) }()
	set := batchSettings{inFlight: 1}
	for _, opt := range o {
		if opt != nil {
			opt(&set)
		}
	}
	ops, err = s.checkBatch(ctx, ops)
	if set.inFlight < 1 || set.inFlight > maxInFlight {
		err = errors.Join(err, fmt.Errorf("%w: WithInFlight: %d, where 1 to %d are allowed", errs.Invalid, set.inFlight, maxInFlight))
	}
	if err != nil {
		return nil, fail("batch", "", &BatchError{Err: err})
	}
	b := &batchRun{Store: s, ctx: ctx, ops: ops, results: make([]OpResult, len(ops)), free: make(chan struct{}, set.inFlight)}
	return b.results, b.run()
}

// batchRun is the state of one batch.
type batchRun struct {
	*Store

	ctx     context.Context //nolint:containedctx // valid until the call returns
	ops     []Op
	results []OpResult
	free    chan struct{} // holds one element for each transaction in flight
	flying  sync.WaitGroup

	mu      sync.Mutex
	failure error // the error of the first transaction that failed
	at      int   // the index of its first operation
	last    int64 // the revision of the last applied transaction
}

// run sends the transactions and returns the error of the batch.
func (b *batchRun) run() error {
	keys := make(map[string]bool) // written since no transaction was in flight
	sent := 0
	for sent < len(b.ops) {
		n := b.chunk(b.ops[sent:])
		if cap(b.free) > 1 {
			b.separate(keys, b.ops[sent:sent+n])
		}
		b.free <- struct{}{}
		if b.failed() {
			<-b.free
			break
		}
		if cap(b.free) == 1 {
			b.apply(sent, n)
			<-b.free
		} else {
			from := sent
			b.flying.Go(func() {
				defer func() { <-b.free }()
				b.apply(from, n)
			})
		}
		sent += n
	}
	b.flying.Wait()
	b.notify(sent)
	return b.conclude(sent)
}

// separate waits for the transactions in flight if one of them writes a key of ops.
func (b *batchRun) separate(keys map[string]bool, ops []Op) {
	for i := range ops {
		if keys[ops[i].key] {
			b.flying.Wait()
			clear(keys)
			break
		}
	}
	for i := range ops {
		keys[ops[i].key] = true
	}
}

func (b *batchRun) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure != nil
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
		b.last = max(b.last, out.rev)
	case b.failure == nil || from < b.at:
		b.failure, b.at = err, from
	}
}

// notify calls the write hooks of the operations that were applied or may have been, on the
// caller's goroutine.
func (b *batchRun) notify(sent int) {
	for i := range b.ops[:sent] {
		r := &b.results[i]
		if b.ops[i].wrote != nil && (r.Err == nil || errors.Is(r.Err, ErrUnknownOutcome)) {
			b.ops[i].wrote(b.ctx, r.Revision)
		}
	}
}

// conclude marks the operations that were not sent, and returns the error of the batch.
func (b *batchRun) conclude(sent int) error {
	if b.failure == nil {
		return nil
	}
	done, unchanged := b.at, b.last == 0
	for i := range b.results {
		r := &b.results[i]
		if i >= sent {
			r.Err = ErrNotSent
		}
		unchanged = unchanged && !errors.Is(r.Err, ErrUnknownOutcome)
	}
	return &errs.Error{
		Pkg: "kv", Op: "batch", Key: b.ns + b.ops[done].key, NotApplied: unchanged,
		Err: &BatchError{Done: done, Revision: b.last, Err: errs.Cause(b.failure)},
	}
}
