package sim

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// kvServer is the KV service of a member.
type kvServer struct {
	pb.UnimplementedKVServer

	m *Member
}

// Range reads.
func (k *kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRangeRequest(r); err != nil {
		return nil, err
	}
	return serve(ctx, k.m, "Range", r, func(done func(*pb.RangeResponse, error)) { k.read(r, done) })
}

// read answers a request from the applied state, which is brought up to date if it must be.
func (k *kvServer) read(r *pb.RangeRequest, done func(*pb.RangeResponse, error)) {
	m := k.m
	answer := func() {
		resp, err := m.store.write().rangeAt(r, m.sim.fastKeys())
		if err == nil {
			rev := resp.Header.Revision
			resp.Header = m.header()
			resp.Header.Revision = rev
		}
		done(resp, err)
	}
	m.orderedRead(r.Serializable, answer, func(err error) { done(nil, err) })
}

// orderedRead calls answer when a read may be answered.
func (m *Member) orderedRead(serializable bool, answer func(), fail func(error)) {
	if serializable {
		answer()
		return
	}
	m.readIndex(func(err error) {
		if err != nil {
			fail(err)
			return
		}
		answer()
	})
}

// fastKeys reports whether the version of the cluster leaves out leases where only keys are asked
// for.
func (s *Sim) fastKeys() bool { return s.hasRangeStream() }

// hasRangeStream reports whether the version of the cluster has RangeStream.
func (s *Sim) hasRangeStream() bool {
	return !strings.HasPrefix(s.opts.Version, "3.4.") && !strings.HasPrefix(s.opts.Version, "3.5.") && !strings.HasPrefix(s.opts.Version, "3.6.")
}

// RangeStream reads in pieces.
func (k *kvServer) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	const piece = 10
	if !k.m.sim.hasRangeStream() {
		return status.Error(codes.Unimplemented, "unknown method RangeStream for service etcdserverpb.KV")
	}
	if err := checkRangeRequest(r); err != nil {
		return err
	}
	if r.SortOrder != pb.RangeRequest_NONE && (r.SortOrder != pb.RangeRequest_ASCEND || r.SortTarget != pb.RangeRequest_KEY) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	resp, err := serve(stream.Context(), k.m, "RangeStream", r, func(done func(*pb.RangeResponse, error)) { k.read(r, done) })
	if err != nil {
		return err
	}
	kvs := resp.Kvs
	for ; len(kvs) > piece; kvs = kvs[piece:] {
		if err := stream.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: kvs[:piece]}}); err != nil {
			return err
		}
	}
	resp.Kvs = kvs
	return stream.Send(&pb.RangeStreamResponse{RangeResponse: resp})
}

// Put writes.
func (k *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPutRequest(r); err != nil {
		return nil, err
	}
	return commit(ctx, k.m, "Put", r, func(m *Member) (*pb.PutResponse, error) {
		if m.store.noSpace {
			return nil, rpctypes.ErrGRPCNoSpace
		}
		if err := m.store.checkPut(r); err != nil {
			return nil, err
		}
		w := m.store.write()
		resp := w.put(r)
		w.commit()
		resp.Header = m.header()
		return resp, nil
	})
}

// DeleteRange deletes.
func (k *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	return commit(ctx, k.m, "DeleteRange", r, func(m *Member) (*pb.DeleteRangeResponse, error) {
		w := m.store.write()
		resp := w.deleteRange(r)
		w.commit()
		resp.Header = m.header()
		return resp, nil
	})
}

// Txn carries out a transaction.
func (k *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxnRequest(r, maxTxnOps); err != nil {
		return nil, err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := written(ops); err != nil {
			return nil, err
		}
	}
	apply := func(m *Member) (*pb.TxnResponse, error) {
		if m.store.noSpace && puts(r) {
			return nil, rpctypes.ErrGRPCNoSpace
		}
		if err := m.store.checkTxn(r); err != nil {
			return nil, err
		}
		w := m.store.write()
		resp := w.txn(r, m.store.decide(r), m.sim.fastKeys())
		w.commit()
		resp.Header = m.header()
		return resp, nil
	}
	if reads, serializable := onlyReads(r); reads {
		return serve(ctx, k.m, "Txn", r, func(done func(*pb.TxnResponse, error)) {
			k.m.orderedRead(serializable, func() { done(apply(k.m)) }, func(err error) { done(nil, err) })
		})
	}
	return commit(ctx, k.m, "Txn", r, apply)
}

// onlyReads reports whether a transaction only reads, and whether it does so serializably.
func onlyReads(r *pb.TxnRequest) (reads, serializable bool) {
	serializable = true
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			read := op.GetRequestRange()
			if read == nil {
				return false, false
			}
			serializable = serializable && read.Serializable
		}
	}
	return true, serializable
}

// puts reports whether a transaction may put keys.
func puts(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestPut() != nil || op.GetRequestTxn() != nil && puts(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

// Compact forgets old revisions.
func (k *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return commit(ctx, k.m, "Compact", r, func(m *Member) (*pb.CompactionResponse, error) {
		if err := m.store.compact(r.Revision); err != nil {
			return nil, err
		}
		return &pb.CompactionResponse{Header: m.header()}, nil
	})
}

// commit proposes a request and returns the result of its application.
func commit[Req proto.Message, Resp any](
	ctx context.Context, m *Member, method string, r Req, apply func(m *Member) (*Resp, error),
) (*Resp, error) {
	if proto.Size(r) > maxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	return serve(ctx, m, method, r, func(done func(*Resp, error)) {
		m.propose(method, func(m *Member) (any, error) { return apply(m) }, func(out any, err error) {
			resp, _ := out.(*Resp)
			done(resp, err)
		})
	})
}

func checkRangeRequest(r *pb.RangeRequest) error {
	_, order := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case !order || !target:
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPutRequest(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkTxnRequest(r *pb.TxnRequest, limit int) error {
	n := max(len(r.Compare), len(r.Success), len(r.Failure))
	if n > limit {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := checkOp(op, limit-n); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, limit int) error {
	switch op := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return checkRangeRequest(op.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPutRequest(op.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		if len(op.RequestDeleteRange.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		return nil
	case *pb.RequestOp_RequestTxn:
		return checkTxnRequest(op.RequestTxn, limit)
	}
	return rpctypes.ErrGRPCKeyNotFound
}

// writes are the keys that operations put and the ranges that they delete.
type writes struct {
	puts    map[string]bool
	deletes []*pb.DeleteRangeRequest
}

// deleted reports whether a key is in a range that is deleted. As in etcd, a range without an end
// ("\x00") is taken for an empty one.
func (w *writes) deleted(key string) bool {
	return slices.ContainsFunc(w.deletes, func(d *pb.DeleteRangeRequest) bool {
		return key == string(d.Key) && len(d.RangeEnd) == 0 || key >= string(d.Key) && key < string(d.RangeEnd)
	})
}

// written collects what operations write. It returns an error if one puts a key that another puts
// or deletes.
func written(ops []*pb.RequestOp) (*writes, error) {
	out := &writes{puts: map[string]bool{}}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			out.deletes = append(out.deletes, d)
		}
	}
	add := func(key string) error {
		if out.puts[key] || out.deleted(key) {
			return rpctypes.ErrGRPCDuplicateKey
		}
		out.puts[key] = true
		return nil
	}
	for _, op := range ops {
		r := op.GetRequestTxn()
		if r == nil {
			continue
		}
		then, err := written(r.Success)
		if err != nil {
			return nil, err
		}
		otherwise, err := written(r.Failure)
		if err != nil {
			return nil, err
		}
		for key := range then.puts {
			if err := add(key); err != nil {
				return nil, err
			}
		}
		for key := range otherwise.puts {
			if then.puts[key] { // only one of the branches is taken
				continue
			}
			if err := add(key); err != nil {
				return nil, err
			}
		}
		out.deletes = append(append(out.deletes, then.deletes...), otherwise.deletes...)
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := add(string(p.Key)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// describe returns a short text for a request.
func describe(r any) string {
	switch r := r.(type) {
	case *pb.RangeRequest:
		return fmt.Sprintf("%s rev %d", keys(r.Key, r.RangeEnd), r.Revision)
	case *pb.PutRequest:
		return fmt.Sprintf("%s=%.20q lease %x", r.Key, r.Value, r.Lease)
	case *pb.DeleteRangeRequest:
		return keys(r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		var b strings.Builder
		for _, c := range r.Compare {
			fmt.Fprintf(&b, "if %s %v %v ", keys(c.Key, c.RangeEnd), c.Target, c.Result)
		}
		for i, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
			b.WriteString([]string{"then ", "else "}[i])
			for _, op := range ops {
				switch op := op.Request.(type) {
				case *pb.RequestOp_RequestRange:
					b.WriteString("get " + keys(op.RequestRange.Key, op.RequestRange.RangeEnd))
				case *pb.RequestOp_RequestPut:
					b.WriteString("put " + describe(op.RequestPut))
				case *pb.RequestOp_RequestDeleteRange:
					b.WriteString("delete " + describe(op.RequestDeleteRange))
				case *pb.RequestOp_RequestTxn:
					b.WriteString("(" + describe(op.RequestTxn) + ")")
				}
				b.WriteString("; ")
			}
		}
		return b.String()
	case *pb.LeaseGrantRequest:
		return fmt.Sprintf("%x ttl %d", r.ID, r.TTL)
	case *pb.LeaseRevokeRequest:
		return fmt.Sprintf("%x", r.ID)
	case *pb.LeaseTimeToLiveRequest:
		return fmt.Sprintf("%x", r.ID)
	case *pb.LeaseKeepAliveRequest:
		return fmt.Sprintf("%x", r.ID)
	case *pb.CompactionRequest:
		return strconv.FormatInt(r.Revision, 10)
	}
	return ""
}

func keys(from, to []byte) string {
	if len(to) == 0 {
		return string(from)
	}
	return fmt.Sprintf("[%s,%s)", from, to)
}
