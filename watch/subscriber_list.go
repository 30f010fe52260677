package watch

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scan"
	"github.com/etcdkit/etcdkit/internal/scope"
)

// list delivers the current state, at base or later, as the difference to what the consumer knows.
// historyChanged means that the consumer's state belongs to another history. Its revisions cannot
// be compared, so list delivers everything.
func (s *subscriber) list(kind Kind, base position, historyChanged bool) (err error) {
	ctx := s.ctx
	if kind == Resync {
		var running scope.Running
		ctx, running = s.core.scope.Begin(ctx, scope.Operation{Package: "watch", Name: "resync"})
		defer func() {
			if errors.Is(err, errLoopEnded) {
				running.End(nil, s.pos.rev) // the consumer needs no more
				return
			}
			running.End(err, s.pos.rev)
		}()
	}
	changes := 0
	// A Resync that comes first contains the whole state. Progress does not count: Consume hides it.
	all := historyChanged || kind == Resync && !s.delivered
	err = s.retry(func() error {
		if !s.broadcaster.isCurrentHistory(s.pos) {
			return errHistoryChanged
		}
		if kind == Snapshot && s.lastBatch != (position{}) {
			kind = Resync // part of the snapshot was delivered already
		}
		n, err := s.listOnce(ctx, kind, base, all)
		changes += n
		switch {
		case err != nil && !fromConsumer(err) && !s.broadcaster.isCurrentHistory(s.pos):
			return errHistoryChanged
		case errors.Is(err, errs.Compacted):
			return errListCompacted
		}
		return err
	})
	if err == nil && kind == Resync {
		s.core.counters.resyncs.Add(1)
		s.core.log.InfoContext(s.ctx, "watch was resynced by a list", "selector", s.request.selector.String(), "changes", changes)
		s.core.scope.WatchResync(ctx, s.request.selector.String(), changes)
	}
	return err
}

// errListCompacted means that the list took longer than etcd keeps history. The next attempt lists
// at a newer revision.
var errListCompacted = errors.New("history was compacted during the list")

// historyReader reads from the history that a broadcaster follows, and fails if it is another one,
// because a list must match the log.
type historyReader struct {
	scan.Reader

	b       *broadcaster
	history uint64
}

func (s *subscriber) reader() historyReader {
	return historyReader{s.core.lister, s.broadcaster, s.pos.history}
}

// Get reads and checks the history. It is enough to check Get: a scan starts with it and continues
// at its revision.
func (r historyReader) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := r.Reader.Get(ctx, key, opts...)
	if err == nil {
		err = r.b.history.Load().check(resp.Header, r.history)
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// maxListBatch is the maximum number of events in a batch that is not one of etcd's own chunks.
const maxListBatch = 5000

// listOnce makes one attempt to list and returns the number of changes that it has delivered. If
// all is set, it delivers all keys, otherwise those that have changed.
func (s *subscriber) listOnce(ctx context.Context, kind Kind, base position, all bool) (n int, err error) {
	sc := scan.New(s.reader(), s.withRetries, s.request.span.listRanges, scan.Options{})
	deliver := func(events []Event, more bool) error {
		n += len(events)
		return s.deliver(Batch{Kind: kind, Revision: sc.Revision(), Events: events, More: more})
	}
	s.index.startList()
	var batch []Event // until it is known whether more follow
	for kvs, err := range sc.Chunks(ctx) {
		switch {
		case err != nil:
			return n, err
		case sc.Revision() < base.rev:
			return n, errListTooOld
		case len(batch) > 0:
			if err := deliver(batch, true); err != nil {
				return n, err
			}
		}
		batch = s.changedKeys(kvs, all)
	}
	if sc.Revision() < base.rev {
		return n, errListTooOld
	}
	for _, key := range s.index.deletedKeys() {
		batch = append(batch, Event{Type: Delete, Key: key, ModRevision: sc.Revision()})
	}
	for len(batch) > maxListBatch {
		if err := deliver(batch[:maxListBatch:maxListBatch], true); err != nil {
			return n, err
		}
		batch = batch[maxListBatch:]
	}
	return n, deliver(batch, false)
}

// changedKeys returns the puts for the keys of a chunk that the consumer does not know, or for all
// keys if all is set.
func (s *subscriber) changedKeys(kvs []*mvccpb.KeyValue, all bool) []Event {
	cut := len(s.request.span.ns)
	out := make([]Event, 0, len(kvs))
	for _, kv := range kvs {
		if !s.index.unchanged(kv.GetKey()[cut:], kv.GetModRevision()) || all {
			out = append(out, putEvent(kv, cut))
		}
	}
	return out
}

// withRetries runs one step of a list, with retries.
func (s *subscriber) withRetries(ctx context.Context, step func(ctx context.Context) error) error {
	return s.core.engine.Do(ctx, s.core.call("list", s.request.selector.String()), func(ctx context.Context, _ bool) error {
		return step(ctx)
	})
}

// index is the state that a state watch has delivered: the keys and their revisions.
type index struct {
	keys map[string]indexedKey
	list uint32 // number of the current list
}

type indexedKey struct {
	rev  int64
	list uint32 // number of the last list that contained the key
}

func newIndex() *index { return &index{keys: make(map[string]indexedKey)} }

// apply updates the index with delivered events.
func (x *index) apply(events []Event) {
	for i := range events {
		if e := &events[i]; e.Type == Delete {
			delete(x.keys, e.Key)
		} else {
			x.keys[e.Key] = indexedKey{rev: e.ModRevision, list: x.list}
		}
	}
}

// startList starts a list.
func (x *index) startList() { x.list++ }

// unchanged reports whether the consumer knows key at revision rev. It records that the current
// list contains the key.
func (x *index) unchanged(key []byte, rev int64) bool {
	k, ok := x.keys[string(key)]
	if !ok {
		return false
	}
	if k.list != x.list {
		k.list = x.list
		x.keys[string(key)] = k
	}
	return k.rev == rev
}

// deletedKeys returns the keys that the consumer knows and the current list did not contain,
// sorted.
func (x *index) deletedKeys() []string {
	var out []string
	for key, k := range x.keys {
		if k.list != x.list {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}
