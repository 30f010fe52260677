package sim

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sort"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	maxRequestBytes = 1536 << 10
	maxTxnOps       = 128
	minLeaseTTL     = 2 // seconds: one and a half election timeouts, rounded up
	maxLeaseTTL     = 9_000_000_000
)

// store is what a member has applied: keys with all their versions, and leases. Key-value pairs are
// not changed once they are in it, so that copies of a store share them.
type store struct {
	rev       int64
	compacted int64                         // -1: nothing
	keys      map[string][]*mvccpb.KeyValue // ascending; Version 0 is a deletion
	sorted    []string                      // all that keys has
	history   map[int64][]*mvccpb.Event     // by revision
	leases    map[int64]*leaseState
	noSpace   bool // put requests are rejected
}

// leaseState is a lease without its expiry, which only the leader knows.
type leaseState struct {
	ttl  int64
	keys map[string]bool
}

func newStore() *store {
	return &store{rev: 1, compacted: -1, keys: map[string][]*mvccpb.KeyValue{}, history: map[int64][]*mvccpb.Event{}, leases: map[int64]*leaseState{}}
}

// clone returns a copy.
func (s *store) clone() *store {
	c := *s
	c.keys, c.history, c.leases = maps.Clone(s.keys), maps.Clone(s.history), map[int64]*leaseState{}
	for key, versions := range c.keys {
		c.keys[key] = slices.Clip(versions)
	}
	c.sorted = slices.Clone(s.sorted)
	for id, l := range s.leases {
		c.leases[id] = &leaseState{ttl: l.ttl, keys: maps.Clone(l.keys)}
	}
	return &c
}

// at returns a key as of a revision, or nil.
func (s *store) at(key string, rev int64) *mvccpb.KeyValue {
	for _, kv := range slices.Backward(s.keys[key]) {
		if kv.ModRevision <= rev {
			if kv.Version == 0 {
				return nil
			}
			return kv
		}
	}
	return nil
}

// within reports whether a key is in a range as requests have it.
func within(key string, from, to []byte) bool {
	switch {
	case len(to) == 0:
		return key == string(from)
	case len(to) == 1 && to[0] == 0:
		return key >= string(from)
	}
	return key >= string(from) && key < string(to)
}

// list returns the pairs of a range as of a revision, in the order of their keys.
func (s *store) list(from, to []byte, rev int64) (out []*mvccpb.KeyValue) {
	for _, key := range s.sorted[sort.SearchStrings(s.sorted, string(from)):] {
		if !within(key, from, to) {
			break
		}
		if kv := s.at(key, rev); kv != nil {
			out = append(out, kv)
		}
	}
	return out
}

// writer carries out the operations of one transaction, which have one revision.
type writer struct {
	*store

	next   int64 // the revision of the changes
	events []*mvccpb.Event
}

func (s *store) write() *writer { return &writer{store: s, next: s.rev + 1} }

// current returns the revision that a response has.
func (w *writer) current() int64 {
	if len(w.events) > 0 {
		return w.next
	}
	return w.rev
}

// commit makes the changes visible.
func (w *writer) commit() {
	if len(w.events) > 0 {
		w.rev = w.next
		w.history[w.next] = w.events
	}
}

func (w *writer) add(kind mvccpb.Event_EventType, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	if _, ok := w.keys[key]; !ok {
		i, _ := slices.BinarySearch(w.sorted, key)
		w.sorted = slices.Insert(w.sorted, i, key)
	}
	w.keys[key] = append(w.keys[key], kv)
	w.events = append(w.events, &mvccpb.Event{Type: kind, Kv: kv})
}

// detach removes a key from the lease of kv.
func (w *writer) detach(kv *mvccpb.KeyValue) {
	if l := w.leases[kv.GetLease()]; l != nil {
		delete(l.keys, string(kv.Key))
	}
}

func (w *writer) put(r *pb.PutRequest) *pb.PutResponse {
	old := w.at(string(r.Key), w.next)
	kv := &mvccpb.KeyValue{
		Key: r.Key, Value: r.Value, Lease: r.Lease, CreateRevision: w.next, ModRevision: w.next, Version: 1,
	}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		w.detach(old)
	}
	if r.IgnoreValue {
		kv.Value = old.GetValue()
	}
	if r.IgnoreLease {
		kv.Lease = old.GetLease()
	}
	if l := w.leases[kv.Lease]; l != nil {
		l.keys[string(r.Key)] = true
	}
	w.add(mvccpb.Event_PUT, kv)
	out := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: w.next}}
	if r.PrevKv {
		out.PrevKv = old
	}
	return out
}

func (w *writer) deleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	out := &pb.DeleteRangeResponse{}
	for _, kv := range w.list(r.Key, r.RangeEnd, w.next) {
		w.detach(kv)
		w.add(mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: kv.Key, ModRevision: w.next})
		out.Deleted++
		if r.PrevKv {
			out.PrevKvs = append(out.PrevKvs, kv)
		}
	}
	out.Header = &pb.ResponseHeader{Revision: w.current()}
	return out
}

// rangeAt answers a request. fastKeys means that a request for keys leaves out their leases, as
// from etcd 3.7.
func (w *writer) rangeAt(r *pb.RangeRequest, fastKeys bool) (*pb.RangeResponse, error) {
	if err := w.checkRange(r); err != nil {
		return nil, err
	}
	now := w.current()
	rev := r.Revision
	if rev <= 0 {
		rev = now
	}
	kvs := w.list(r.Key, r.RangeEnd, rev)
	out := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: now}, Count: int64(len(kvs))}
	if r.CountOnly {
		return out, nil
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision || kv.ModRevision < r.MinModRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision || kv.CreateRevision < r.MinCreateRevision
	})
	sortPairs(kvs, r)
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, out.More = kvs[:r.Limit], true
	}
	if r.KeysOnly {
		for i, kv := range kvs {
			short := &mvccpb.KeyValue{
				Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
			}
			if fastKeys && r.SortTarget != pb.RangeRequest_VALUE {
				short.Lease = 0
			}
			kvs[i] = short
		}
	}
	out.Kvs = kvs
	return out, nil
}

func sortPairs(kvs []*mvccpb.KeyValue, r *pb.RangeRequest) {
	if r.SortOrder == pb.RangeRequest_NONE && r.SortTarget == pb.RangeRequest_KEY {
		return
	}
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		n := 0
		switch r.SortTarget {
		case pb.RangeRequest_KEY:
			n = bytes.Compare(a.Key, b.Key)
		case pb.RangeRequest_VERSION:
			n = cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			n = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			n = cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			n = bytes.Compare(a.Value, b.Value)
		}
		if r.SortOrder == pb.RangeRequest_DESCEND {
			n = -n
		}
		return n
	})
}

func (s *store) checkRange(r *pb.RangeRequest) error {
	switch {
	case r.Revision > s.rev:
		return rpctypes.ErrGRPCFutureRev
	case r.Revision > 0 && r.Revision < s.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// checkPut checks what depends on the state.
func (s *store) checkPut(r *pb.PutRequest) error {
	switch {
	case r.Lease != 0 && s.leases[r.Lease] == nil:
		return rpctypes.ErrGRPCLeaseNotFound
	case (r.IgnoreLease || r.IgnoreValue) && s.at(string(r.Key), s.rev) == nil:
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

// checkTxn checks the operations of the path that a transaction takes, before any is carried out.
// All compares see the state before the transaction.
func (s *store) checkTxn(r *pb.TxnRequest) (err error) {
	for _, op := range s.branch(r) {
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = s.checkRange(op.RequestRange)
		case *pb.RequestOp_RequestPut:
			err = s.checkPut(op.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = s.checkTxn(op.RequestTxn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// branch returns the operations that the compares select.
func (s *store) branch(r *pb.TxnRequest) []*pb.RequestOp {
	if s.holds(r.Compare) {
		return r.Success
	}
	return r.Failure
}

func (s *store) holds(compares []*pb.Compare) bool {
	for _, c := range compares {
		kvs := s.list(c.Key, c.RangeEnd, s.rev)
		if len(kvs) == 0 {
			if c.Target == pb.Compare_VALUE {
				return false
			}
			kvs = []*mvccpb.KeyValue{{}}
		}
		for _, kv := range kvs {
			if !compare(c, kv) {
				return false
			}
		}
	}
	return true
}

func compare(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	n := 0
	switch c.Target {
	case pb.Compare_VALUE:
		n = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		n = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		n = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		n = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		n = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return n == 0
	case pb.Compare_NOT_EQUAL:
		return n != 0
	case pb.Compare_GREATER:
		return n > 0
	}
	return n < 0
}

// txn carries out a transaction that was checked. decided holds the state for the compares of
// nested transactions: that before the transaction.
func (w *writer) txn(r *pb.TxnRequest, decided *decisions, fastKeys bool) *pb.TxnResponse {
	out := &pb.TxnResponse{Succeeded: decided.succeeded}
	ops := r.Failure
	if out.Succeeded {
		ops = r.Success
	}
	nested := decided.nested
	for _, op := range ops {
		one := &pb.ResponseOp{}
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			resp, _ := w.rangeAt(op.RequestRange, fastKeys) // was checked
			one.Response = &pb.ResponseOp_ResponseRange{ResponseRange: resp}
		case *pb.RequestOp_RequestPut:
			one.Response = &pb.ResponseOp_ResponsePut{ResponsePut: w.put(op.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			one.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: w.deleteRange(op.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			resp := w.txn(op.RequestTxn, nested[0], fastKeys)
			resp.Header = &pb.ResponseHeader{}
			nested = nested[1:]
			one.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: resp}
		}
		out.Responses = append(out.Responses, one)
	}
	return out
}

// decisions is which branch a transaction and those nested in it take.
type decisions struct {
	succeeded bool
	nested    []*decisions
}

func (s *store) decide(r *pb.TxnRequest) *decisions {
	d := &decisions{succeeded: s.holds(r.Compare)}
	for _, op := range s.branch(r) {
		if nested := op.GetRequestTxn(); nested != nil {
			d.nested = append(d.nested, s.decide(nested))
		}
	}
	return d
}

// compact forgets what is older than rev.
func (s *store) compact(rev int64) error {
	switch {
	case rev <= s.compacted:
		return rpctypes.ErrGRPCCompacted
	case rev > s.rev:
		return rpctypes.ErrGRPCFutureRev
	}
	s.compacted = rev
	for key, versions := range s.keys {
		first := 0
		for i, kv := range versions {
			if kv.ModRevision <= rev {
				first = i
			}
		}
		if versions[first].Version == 0 && versions[first].ModRevision <= rev {
			first++
		}
		if versions = versions[first:]; len(versions) == 0 {
			delete(s.keys, key)
			continue
		}
		s.keys[key] = versions
	}
	s.sorted = slices.DeleteFunc(s.sorted, func(key string) bool { return s.keys[key] == nil })
	maps.DeleteFunc(s.history, func(at int64, _ []*mvccpb.Event) bool { return at < rev })
	return nil
}

// grant adds a lease.
func (s *store) grant(id, ttl int64) error {
	switch {
	case ttl > maxLeaseTTL:
		return rpctypes.ErrGRPCLeaseTTLTooLarge
	case s.leases[id] != nil:
		return rpctypes.ErrGRPCLeaseExist
	}
	s.leases[id] = &leaseState{ttl: max(ttl, minLeaseTTL), keys: map[string]bool{}}
	return nil
}

// revoke removes a lease with its keys.
func (s *store) revoke(id int64) error {
	l := s.leases[id]
	if l == nil {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	w := s.write()
	for _, key := range slices.SortedFunc(maps.Keys(l.keys), strings.Compare) {
		w.deleteRange(&pb.DeleteRangeRequest{Key: []byte(key)})
	}
	w.commit()
	delete(s.leases, id)
	return nil
}
