package watch

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// list delivers the current state, at base or later, as the difference to what the consumer knows.
// other means that the consumer's state belongs to another history. Its revisions cannot be
// compared, so list delivers everything.
func (s *sub) list(kind Kind, base position, other bool) error {
	changes := 0
	// A Resync that comes first contains the whole state.
	whole := other || kind == Resync && s.told == (position{})
	err := s.insist(func() error {
		if !s.hub.follows(s.at) {
			return errOtherHistory
		}
		if kind == Snapshot && s.told != (position{}) {
			kind = Resync // part of the snapshot was delivered already
		}
		n, err := s.listOnce(kind, base, whole)
		changes += n
		switch {
		case err != nil && !fromConsumer(err) && !s.hub.follows(s.at):
			return errOtherHistory
		case errors.Is(err, errs.Compacted):
			return errCompactedList
		}
		return err
	})
	if err == nil && kind == Resync {
		s.core.counts.resyncs.Add(1)
		s.core.log.InfoContext(s.ctx, "watch was brought up to date by a list", "selector", s.req.sel.String(), "changes", changes)
		if s.core.resync != nil {
			s.core.resync(s.req.sel.String(), changes)
		}
	}
	return err
}

// errCompactedList means that the list took longer than etcd keeps history. The next attempt lists
// at a newer revision.
var errCompactedList = errors.New("history was compacted under the list")

// historyReader reads from the history that a hub follows, and fails if it is another one, because
// a list must match the log.
type historyReader struct {
	scan.Reader

	hub     *hub
	history uint64
}

func (s *sub) reader() historyReader { return historyReader{s.core.lister, s.hub, s.at.history} }

// Get reads and checks the history. It is enough to check Get: a scan starts with it and continues
// at its revision.
func (r historyReader) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := r.Reader.Get(ctx, key, opts...)
	if err == nil {
		err = r.hub.history.Load().check(resp.Header, r.history)
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// listChunk is the maximum number of events in a batch that is not one of etcd's own chunks.
const listChunk = 5000

// listOnce makes one attempt to list and returns the number of changes that it has delivered. If
// whole is set, it delivers all keys, otherwise those that have changed.
func (s *sub) listOnce(kind Kind, base position, whole bool) (n int, err error) {
	sc := scan.New(s.reader(), s.policy, s.req.span.lists, scan.Options{})
	give := func(events []Event, more bool) error {
		n += len(events)
		return s.give(Batch{Kind: kind, Revision: sc.Revision(), Events: events, More: more})
	}
	s.index.begin()
	var held []Event // until it is known whether more follow
	for kvs, err := range sc.Chunks(s.ctx) {
		switch {
		case err != nil:
			return n, err
		case sc.Revision() < base.rev:
			return n, errLostRace
		case len(held) > 0:
			if err := give(held, true); err != nil {
				return n, err
			}
		}
		held = s.changed(kvs, whole)
	}
	if sc.Revision() < base.rev {
		return n, errLostRace
	}
	for _, key := range s.index.gone() {
		held = append(held, Event{Type: Delete, Key: key, ModRevision: sc.Revision()})
	}
	for len(held) > listChunk {
		if err := give(held[:listChunk:listChunk], true); err != nil {
			return n, err
		}
		held = held[listChunk:]
	}
	return n, give(held, false)
}

// changed returns the puts for the keys of a chunk that the consumer does not know, or for all keys
// if whole is set.
func (s *sub) changed(kvs []*mvccpb.KeyValue, whole bool) []Event {
	cut := len(s.req.span.ns)
	out := make([]Event, 0, len(kvs))
	for _, kv := range kvs {
		if !s.index.unchanged(kv.GetKey()[cut:], kv.GetModRevision()) || whole {
			out = append(out, put(kv, cut))
		}
	}
	return out
}

// policy runs one step of a list, with retries.
func (s *sub) policy(ctx context.Context, step func(ctx context.Context) error) error {
	return s.core.engine.Do(ctx, s.core.call("list", s.req.sel.String()), func(ctx context.Context, _ bool) error {
		return step(ctx)
	})
}
