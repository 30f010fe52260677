package kv

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// List yields the entries whose keys begin with prefix, in key order. prefix must be "" or end in
// "/" unless WithPartialPrefix is given. All entries are of the same revision, however long the
// loop takes. An error is yielded last, with a zero entry.
//
// List costs one small read, which determines the revision, and one streamed read of all entries.
// If prefix is "", it costs two streamed reads, one on each side of the library's own keys. If the
// server or the KV does not support streams, List reads in pages. One chunk of entries is in memory
// at a time. List resumes after a lost connection. Breaking out of the loop ends the read on the
// server. If the revision is compacted before the end, the error is [ErrCompacted]; the entries
// yielded before it are correct, and the others cannot be read any more. A deadline of ctx bounds
// the whole loop. Without a deadline, the default timeout bounds the wait for each chunk, but not
// the body of the loop.
func (s *Store) List(ctx context.Context, prefix string, o ...ListOption) iter.Seq2[Entry[[]byte], error] {
	return func(yield func(Entry[[]byte], error) bool) {
		for kv, err := range s.scan(ctx, "list", prefix, false, o) {
			if err != nil {
				yield(Entry[[]byte]{}, err)
				return
			}
			if !yield(entryOf(kv, len(s.ns)), nil) {
				return
			}
		}
	}
}

// Keys is like [Store.List], but yields only keys. The values are not sent.
func (s *Store) Keys(ctx context.Context, prefix string, o ...ListOption) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for kv, err := range s.scan(ctx, "keys", prefix, true, o) {
			if err != nil {
				yield("", err)
				return
			}
			if !yield(string(kv.GetKey()[len(s.ns):]), nil) {
				return
			}
		}
	}
}

// mapTries is the maximum number of attempts of Map when compactions interrupt it.
const mapTries = 2

// Map returns the entries of [Store.List] as a map, all in memory. If the revision is compacted
// before the end, Map starts again at the current revision, unless WithRevision is given.
func (s *Store) Map(ctx context.Context, prefix string, o ...ListOption) (m map[string][]byte, err error) {
	for range mapTries {
		m = make(map[string][]byte)
		for kv, scanErr := range s.scan(ctx, "map", prefix, false, o) {
			if err = scanErr; err == nil {
				m[string(kv.GetKey()[len(s.ns):])] = kv.GetValue()
			}
		}
		if err == nil {
			return m, nil
		}
		if set, bad := listOptions(o); bad != nil || set.revisionSet || !errors.Is(err, ErrCompacted) {
			break
		}
	}
	return nil, err
}

// scan yields the keys below prefix in the form of etcd.
func (s *Store) scan(ctx context.Context, op, prefix string, keysOnly bool, opts []ListOption) iter.Seq2[*mvccpb.KeyValue, error] {
	return func(yield func(*mvccpb.KeyValue, error) bool) {
		var failure error
		ctx, running := s.observe(ctx, op)
		defer func() { running.End(failure, 0) }()
		o, err := listOptions(opts)
		spans, bad := s.spans(prefix, o.partial)
		if err = errors.Join(bad, err); err == nil {
			spans, err = s.behind(spans, prefix, o)
		}
		if err == nil && ctx == nil {
			err = fmt.Errorf("%w: nil context", errs.Invalid)
		}
		if err != nil {
			failure = s.fail(op, prefix, err)
			yield(nil, failure)
			return
		}
		call := s.read(op, prefix) // for each chunk
		list := scan.New(retry.NewReader(s.engine, call, s.kv), func(ctx context.Context, step func(ctx context.Context) error) error {
			return s.engine.Do(ctx, call, func(ctx context.Context, _ bool) error { return step(ctx) })
		}, spans, scan.Options{Rev: o.revision, KeysOnly: keysOnly, Limit: int64(o.limit), Reverse: o.reverse})
		for kvs, err := range list.Chunks(ctx) {
			if failure = err; err != nil {
				yield(nil, err)
				return
			}
			if o.readRevision != nil {
				*o.readRevision = list.Revision()
			}
			for _, kv := range kvs {
				if !yield(kv, nil) {
					return
				}
			}
		}
		if o.readRevision != nil {
			*o.readRevision = list.Revision()
		}
	}
}

// behind returns the parts of spans that WithAfter does not skip.
func (s *Store) behind(spans []keyspace.Range, prefix string, o options) ([]keyspace.Range, error) {
	if o.after == "" {
		return spans, nil
	}
	if len(o.after) < len(prefix) || o.after[:len(prefix)] != prefix {
		return nil, fmt.Errorf("%w: WithAfter: key %s is not below the prefix", errs.Invalid, errs.Quote(o.after))
	}
	rest := keyspace.Range{From: keyspace.After(s.ns + o.after), To: keyspace.ToEnd}
	if o.reverse {
		rest = keyspace.Range{From: keyspace.First, To: s.ns + o.after}
	}
	return within(spans, rest), nil
}
