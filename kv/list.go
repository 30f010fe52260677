package kv

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

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

// maxMapAttempts is the maximum number of attempts of Map when compactions interrupt it.
const maxMapAttempts = 2

// Map returns the entries of [Store.List] as a map, all in memory. If the revision is compacted
// before the end, Map starts again at the current revision, unless WithRevision is given.
func (s *Store) Map(ctx context.Context, prefix string, o ...ListOption) (m map[string][]byte, err error) {
	var rev int64
	ctx, running := s.observe(ctx, "map")
	defer func() { running.End(err, rev) }()
	for range maxMapAttempts {
		m = make(map[string][]byte)
		rev, err = s.yieldAll(ctx, "map", prefix, false, o, func(kv *mvccpb.KeyValue, err error) bool {
			if err == nil {
				m[string(kv.GetKey()[len(s.ns):])] = kv.GetValue()
			}
			return true
		})
		if err == nil {
			return m, nil
		}
		if set, optsErr := listOptions(o); optsErr != nil || set.revisionSet || !errors.Is(err, ErrCompacted) {
			break
		}
	}
	return nil, err
}

// scan yields the keys below prefix in the form of etcd, as one operation.
func (s *Store) scan(ctx context.Context, op, prefix string, keysOnly bool, opts []ListOption) iter.Seq2[*mvccpb.KeyValue, error] {
	return func(yield func(*mvccpb.KeyValue, error) bool) {
		var err error
		var rev int64
		ctx, running := s.observe(ctx, op)
		defer func() { running.End(err, rev) }()
		rev, err = s.yieldAll(ctx, op, prefix, keysOnly, opts, yield)
	}
}

// yieldAll yields what scan does, and returns the revision that was read and the error that was
// yielded.
func (s *Store) yieldAll(
	ctx context.Context, op, prefix string, keysOnly bool, opts []ListOption, yield func(*mvccpb.KeyValue, error) bool,
) (rev int64, err error) {
	o, err := listOptions(opts)
	spans, prefixErr := s.spans(prefix, o.partial)
	if err = errors.Join(prefixErr, err); err == nil {
		spans, err = s.applyAfter(spans, prefix, o)
	}
	if err != nil {
		err = s.opError(op, prefix, err)
		yield(nil, err)
		return 0, err
	}
	call := s.readCall(op, prefix) // for each chunk
	list := scan.New(retry.NewReader(s.engine, call, s.kv), s.engine.Steps(call), spans,
		scan.Options{Rev: o.revision, KeysOnly: keysOnly, Limit: int64(o.limit), Reverse: o.reverse})
	for kvs, err := range list.Chunks(ctx) {
		if err != nil {
			yield(nil, err)
			return list.Revision(), err
		}
		if o.readRevision != nil {
			*o.readRevision = list.Revision()
		}
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return list.Revision(), nil
			}
		}
	}
	if o.readRevision != nil {
		*o.readRevision = list.Revision()
	}
	return list.Revision(), nil
}

// applyAfter returns the parts of spans that WithAfter does not skip.
func (s *Store) applyAfter(spans []keyspace.Range, prefix string, o options) ([]keyspace.Range, error) {
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
	return intersect(spans, rest), nil
}

// Page is a part of a listing. All pages reached by cursors from the same first page are of the
// same revision.
type Page[T any] struct {
	Entries  []Entry[T]
	Revision int64  // the revision of all pages
	Total    int64  // the number of entries on all pages
	Cursor   Cursor // where the next page starts, "" on the last one
}

// Cursor identifies the end of a page. It is opaque and URL-safe. It contains the revision and the
// last key in plain text, so it is neither a secret nor an authorization. A cursor for another
// prefix, or an invalid one, returns [ErrInvalid].
type Cursor string

// Page returns up to limit entries below prefix, in key order, starting where c ends. If c is "",
// it returns the first page. It costs one RPC. If the revision of the cursor was compacted, the
// error is [ErrCompacted]: start again at the first page. Unlike for List, the server reads the
// rest of the range for each page, so reading a large range page by page takes time quadratic in
// its size.
func (s *Store) Page(ctx context.Context, prefix string, limit int, c Cursor) (p Page[[]byte], err error) {
	ctx, running := s.observe(ctx, "page")
	defer func() { running.End(err, p.Revision) }()
	spans, err := s.readSpans(prefix)
	if limit <= 0 {
		err = errors.Join(err, fmt.Errorf("%w: a page of %d entries", errs.Invalid, limit))
	}
	at := position{}
	if err == nil && c != "" {
		at, err = parseCursor(c, s.ns+prefix)
	}
	if err != nil {
		return Page[[]byte]{}, s.opError("page", prefix, err)
	}
	kvs, p, err := s.page(ctx, prefix, at.after(spans), limit, at.rev)
	if err != nil {
		return Page[[]byte]{}, err
	}
	if at.rev != 0 {
		p.Total = at.total
	}
	more := len(kvs) > limit
	if more {
		kvs = kvs[:limit]
	}
	p.Entries = make([]Entry[[]byte], len(kvs))
	for i, kv := range kvs {
		p.Entries[i] = entryOf(kv, len(s.ns))
	}
	if more {
		p.Cursor = position{rev: p.Revision, total: p.Total, key: string(kvs[limit-1].GetKey())}.cursor(s.ns + prefix)
	}
	return p, nil
}

// page reads limit+1 entries, to find out whether another page follows.
func (s *Store) page(ctx context.Context, prefix string, spans []keyspace.Range, limit int, rev int64) (kvs []*mvccpb.KeyValue, p Page[[]byte], err error) {
	gets := make([]clientv3.Op, len(spans))
	for i, r := range spans {
		gets[i] = clientv3.OpGet(r.From, clientv3.WithRange(r.To), clientv3.WithLimit(int64(limit)+1), clientv3.WithRev(rev))
	}
	type result struct {
		kvs             []*mvccpb.KeyValue
		total, revision int64
	}
	got, err := retry.Do(ctx, s.engine, s.readCall("page", prefix), func(ctx context.Context, _ bool) (out result, err error) {
		if len(gets) == 1 {
			r, err := s.kv.Do(ctx, gets[0])
			if err != nil {
				return out, err
			}
			return result{r.Get().Kvs, r.Get().Count, r.Get().Header.GetRevision()}, nil
		}
		r, err := s.kv.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return out, err
		}
		out.revision = r.Header.GetRevision()
		for _, one := range r.Responses {
			out.kvs = append(out.kvs, one.GetResponseRange().GetKvs()...)
			out.total += one.GetResponseRange().GetCount()
		}
		return out, nil
	})
	kvs, p.Total, p.Revision = got.kvs, got.total, got.revision
	if rev != 0 {
		p.Revision = rev
	}
	return slices.Clip(kvs), p, err
}

// position is the content of a cursor.
type position struct {
	rev, total int64
	key        string // absolute
}

const cursorVersion = 1

// after returns the parts of spans after the position. They are never empty, because the position
// is below the prefix.
func (p position) after(spans []keyspace.Range) []keyspace.Range {
	if p.key == "" {
		return spans
	}
	after := keyspace.Range{From: keyspace.After(p.key), To: keyspace.ToEnd}
	return intersect(spans, after)
}

// cursor encodes the position: a version, the revision, the total, a hash of the prefix, and the
// key without the prefix.
func (p position) cursor(prefix string) Cursor {
	b := []byte{cursorVersion}
	b = binary.AppendUvarint(b, uint64(p.rev))   //nolint:gosec // revisions are positive
	b = binary.AppendUvarint(b, uint64(p.total)) //nolint:gosec // counts are positive
	b = binary.BigEndian.AppendUint32(b, prefixHash(prefix))
	b = append(b, p.key[len(prefix):]...)
	return Cursor(base64.RawURLEncoding.EncodeToString(b))
}

func prefixHash(prefix string) uint32 {
	h := fnv.New32a()
	_, _ = strings.NewReader(prefix).WriteTo(h)
	return h.Sum32()
}

// parseCursor decodes a cursor for prefix. The position is below prefix, whatever c contains.
func parseCursor(c Cursor, prefix string) (p position, err error) {
	b, err := base64.RawURLEncoding.DecodeString(string(c))
	if err != nil || len(b) == 0 || b[0] != cursorVersion {
		return p, fmt.Errorf("%w: not a cursor", errs.Invalid)
	}
	b = b[1:]
	var n [2]uint64
	for i := range n {
		v, size := binary.Uvarint(b)
		if size <= 0 || v > 1<<62 {
			return p, fmt.Errorf("%w: not a cursor", errs.Invalid)
		}
		n[i], b = v, b[size:]
	}
	if n[0] == 0 || len(b) <= 4 {
		return p, fmt.Errorf("%w: not a cursor", errs.Invalid)
	}
	if binary.BigEndian.Uint32(b) != prefixHash(prefix) {
		return p, fmt.Errorf("%w: the cursor is for another prefix", errs.Invalid)
	}
	return position{rev: int64(n[0]), total: int64(n[1]), key: prefix + string(b[4:])}, nil //nolint:gosec // checked above
}
