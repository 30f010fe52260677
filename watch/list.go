package watch

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// list delivers the current state, at base or later, as the difference to what the consumer knows. other says that what
// it knows is of another history, in which revisions mean nothing, so that everything is told.
func (s *sub) list(kind Kind, base position, other bool) error {
	changes := 0
	whole := other || kind == Resync && s.told == (position{}) // a resync that comes first names everything
	err := s.insist(func() error {
		if !s.hub.follows(s.at) {
			return errOtherHistory
		}
		if kind == Snapshot && s.told != (position{}) {
			kind = Resync // of the state that was begun to be told
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

// errCompactedList is a list that took longer than etcd keeps history. The next one begins at a newer revision.
var errCompactedList = errors.New("history was compacted under the list")

// historyReader reads from the history that a hub follows, and from no other: what is listed is put together with what is in
// the log.
type historyReader struct {
	scan.Reader

	hub     *hub
	history uint64
}

func (s *sub) reader() historyReader { return historyReader{s.core.lister, s.hub, s.at.history} }

// Get reads. A scan begins with a Get, and goes on at its revision.
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

// listChunk is how many events a batch of a list has at the most, where etcd's own chunks do not say.
const listChunk = 5000

// listOnce makes one attempt, and says how many changes it has delivered. whole is everything, not only what has changed.
func (s *sub) listOnce(kind Kind, base position, whole bool) (n int, err error) {
	sc := scan.New(s.reader(), s.policy, s.req.span.lists, scan.Options{})
	give := func(events []Event, more bool) error {
		n += len(events)
		return s.give(Batch{Kind: kind, Revision: sc.Revision(), Events: events, More: more})
	}
	s.index.begin()
	var held []Event // until it is known whether more will come
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

// changed is what a chunk of a list has that the consumer does not know, or all of it.
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

// policy makes one step of a list.
func (s *sub) policy(ctx context.Context, step func(ctx context.Context) error) error {
	return s.core.engine.Do(ctx, s.core.call("list", s.req.sel.String()), func(ctx context.Context, _ bool) error {
		return step(ctx)
	})
}
