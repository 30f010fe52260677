package kv

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// List yields the entries below prefix, as [Store.List] does, merged with what the function wrote
// before the loop. An error is yielded last. [WithRevision] is refused.
//
// The range is guarded up to the last entry that was yielded: the transaction conflicts if a key in
// it was written, created or deleted since. Each entry counts against the limit of a transaction
// that writes. A listing costs one RPC for each range of up to 500 entries, and a streamed read for
// the rest. A listing of the whole namespace has two ranges, one on each side of the library's own
// keys.
func (t *Tx) List(prefix string, o ...ListOption) iter.Seq2[Entry[[]byte], error] {
	return t.list(t.store(), prefix, o)
}

func (t *Tx) list(s *Store, prefix string, opts []ListOption) iter.Seq2[Entry[[]byte], error] {
	return func(yield func(Entry[[]byte], error) bool) {
		if err := t.checkUsable(s); err != nil {
			yield(Entry[[]byte]{}, err)
			return
		}
		o, err := listOptions(opts)
		spans, prefixErr := s.spans(prefix, o.partial)
		if err = errors.Join(prefixErr, err); err == nil {
			spans, err = s.applyAfter(spans, prefix, o)
		}
		if err == nil && o.revisionSet {
			err = fmt.Errorf("%w: WithRevision: all reads of a transaction are of one revision", errs.Invalid)
		}
		if err != nil {
			yield(Entry[[]byte]{}, t.recordError(s.opError("list", prefix, err)))
			return
		}
		l := &txListing{Tx: t, store: s, prefix: prefix, spans: spans, opts: o}
		if err := l.run(yield); err != nil {
			yield(Entry[[]byte]{}, t.recordError(err))
		}
	}
}

// txListing is one loop over a listing.
type txListing struct {
	*Tx

	store  *Store
	prefix string
	spans  []keyspace.Range
	opts   options

	written []string // the keys written in the range, in the order of the listing
	yielded int
	last    string // the last key that was yielded
}

// run yields the entries and guards the range that was yielded.
func (l *txListing) run(yield func(Entry[[]byte], error) bool) error {
	l.written = l.writtenKeys()
	limit := 0
	if l.opts.limit > 0 {
		limit = l.opts.limit + len(l.written) // some of own replace stored keys
	}
	complete := true
	for kv, err := range l.storedKeys(limit) {
		if err != nil {
			return err
		}
		if complete = l.merge(kv, yield); !complete {
			break
		}
	}
	l.storeReadRevision()
	if complete && l.yieldWritten("", yield) {
		l.ranges = append(l.ranges, l.spans...)
		return nil
	}
	l.ranges = append(l.ranges, intersect(l.spans, l.yieldedRange())...)
	return nil
}

// storeReadRevision sets the target of WithReadRevision.
func (l *txListing) storeReadRevision() {
	if l.opts.readRevision != nil {
		*l.opts.readRevision = l.rev
	}
}

// yieldedRange returns the range from the start of the listing to the last key that was yielded.
func (l *txListing) yieldedRange() keyspace.Range {
	if l.opts.reverse {
		return keyspace.Range{From: l.last, To: keyspace.ToEnd}
	}
	return keyspace.Range{From: keyspace.First, To: keyspace.After(l.last)}
}

// writtenKeys returns the keys in the range that the transaction has written so far.
func (l *txListing) writtenKeys() (keys []string) {
	for key := range l.writes {
		for _, r := range l.spans {
			if r.Contains(key) {
				keys = append(keys, key)
			}
		}
	}
	slices.SortFunc(keys, l.compare)
	return keys
}

// compare compares keys in the order of the listing.
func (l *txListing) compare(a, b string) int {
	if l.opts.reverse {
		a, b = b, a
	}
	return strings.Compare(a, b)
}

// merge yields what the transaction has written before a stored key, and then the stored key. It
// returns false at the end of the loop.
func (l *txListing) merge(kv *keyValue, yield func(Entry[[]byte], error) bool) bool {
	key := string(kv.GetKey())
	if !l.yieldWritten(key, yield) {
		return false
	}
	l.readRevisions[key] = kv.GetModRevision()
	l.cached[key] = kv
	if len(l.written) > 0 && l.written[0] == key {
		w := l.writes[key]
		l.written = l.written[1:]
		return w.delete || l.yield(key, w.entry(key[len(l.store.ns):]), yield)
	}
	e := entryOf(kv, len(l.store.ns))
	e.Value = slices.Clone(e.Value) // the loop may modify it
	return l.yield(key, e, yield)
}

// yieldWritten yields what the transaction has written before the given key, or all of it if before
// is "".
func (l *txListing) yieldWritten(before string, yield func(Entry[[]byte], error) bool) bool {
	for len(l.written) > 0 && (before == "" || l.compare(l.written[0], before) < 0) {
		key := l.written[0]
		l.written = l.written[1:]
		if w := l.writes[key]; !w.delete && !l.yield(key, w.entry(key[len(l.store.ns):]), yield) {
			return false
		}
	}
	return true
}

func (l *txListing) yield(key string, e Entry[[]byte], yield func(Entry[[]byte], error) bool) bool {
	l.last = key
	l.yielded++
	l.storeReadRevision()
	return yield(e, nil) && l.yielded != l.opts.limit
}

// maxTxListPage is the number of keys that a listing reads at once before it streams the rest.
const maxTxListPage = 500

// storedKeys yields the stored keys in the range, at most limit of them; 0 means no limit.
func (l *txListing) storedKeys(limit int) iter.Seq2[*keyValue, error] {
	return func(yield func(*keyValue, error) bool) {
		page := limit
		if limit == 0 {
			page = maxTxListPage
		}
		n := 0
		for kv, err := range l.scan(l.spans, page) {
			if err != nil {
				yield(nil, err)
				return
			}
			n++
			if !yield(kv, nil) {
				return
			}
			if n == page && limit == 0 {
				rest := keyspace.Range{From: keyspace.After(string(kv.GetKey())), To: keyspace.ToEnd}
				if l.opts.reverse {
					rest = keyspace.Range{From: keyspace.First, To: string(kv.GetKey())}
				}
				l.scan(intersect(l.spans, rest), 0)(yield)
				return
			}
		}
	}
}

// scan reads ranges at the revision of the transaction.
func (l *txListing) scan(spans []keyspace.Range, limit int) iter.Seq2[*keyValue, error] {
	return func(yield func(*keyValue, error) bool) {
		call := l.store.readCall("list", l.prefix)
		list := scan.New(retry.NewReader(l.store.engine, call, l.store.kv), l.store.engine.Steps(call), spans,
			scan.Options{Rev: l.readAt, Limit: int64(limit), Reverse: l.opts.reverse})
		setRevision := func() {
			if l.readAt == 0 {
				l.readAt = list.Revision()
			}
			l.rev = l.readAt
		}
		for kvs, err := range list.Chunks(l.ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			setRevision()
			for _, kv := range kvs {
				if !yield(kv, nil) {
					return
				}
			}
		}
		setRevision()
	}
}
