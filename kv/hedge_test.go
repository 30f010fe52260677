package kv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// hedgeDelay is when the second attempt of a simStore is sent: its round trips have taken 1 ms.
const hedgeDelay = 250 * time.Millisecond

// hedgeDeadline is the deadline of the calls in these tests.
const hedgeDeadline = 3 * time.Second

// fates are what may happen to an attempt that is sent at some time: it is applied at one of the
// given times, and answered at a later one, or never, or its connection breaks at some time. Times
// count from the beginning of the call.
func fates(sent, broken time.Duration, applied, answered []time.Duration) (out []simFate) {
	for _, at := range applied {
		f := simFate{applied: at - sent, answered: -1}
		if at < 0 {
			f.applied = -1
		}
		out = append(out, f, simFate{f.applied, broken - sent, status.Error(codes.Unavailable, "error reading from server: EOF")})
		for _, then := range answered {
			f.answered = then - sent
			if f.applied >= 0 && f.answered >= f.applied {
				out = append(out, f)
			}
		}
	}
	return out
}

// interference is what another client does with the key, and when.
type interference struct {
	at time.Duration
	// "other" puts another value, "same" that of the call; "delete" deletes the key, "again"
	// creates it once more after that; "flicker" puts another value, and deletes the key a little
	// later.
	what string
}

func (m interference) start(c *simCluster) {
	if m.what == "" {
		return
	}
	time.AfterFunc(m.at, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.rev++
		switch m.what {
		case "other", "flicker":
			c.put(&pb.PutRequest{Key: []byte("k"), Value: []byte("other")})
		case "same":
			c.put(&pb.PutRequest{Key: []byte("k"), Value: []byte("mine")})
		default:
			c.remove(&pb.DeleteRangeRequest{Key: []byte("k")}, c.rev)
		}
		if m.what == "again" {
			c.rev++
			c.put(&pb.PutRequest{Key: []byte("k"), Value: []byte("again")})
		}
	})
	if m.what == "flicker" {
		interference{m.at + 100*time.Millisecond, "delete"}.start(c)
	}
}

// In each schedule, two attempts are applied, answered or lost while another client writes the key.
// In any order, even after the call has returned, the call takes effect at most once and reports
// the outcome correctly.
func TestStore_HedgedWriteAppliesOnceInEverySchedule(t *testing.T) {
	t.Parallel()
	const ms, never = time.Millisecond, -1
	var others []interference
	for _, at := range []time.Duration{50 * ms, 350 * ms} {
		for _, what := range []string{"other", "same", "delete", "again", "flicker"} {
			others = append(others, interference{at, what})
		}
	}
	others = append(others, interference{})
	first := fates(0, 900*ms, []time.Duration{100 * ms, 400 * ms, 6 * time.Second, never}, []time.Duration{150 * ms, 900 * ms})
	late := fates(hedgeDelay, 450*ms, []time.Duration{300 * ms, 600 * ms, 7 * time.Second, never}, []time.Duration{450 * ms, 800 * ms})
	value, once := []byte("mine"), kv.WithOnce()
	for name, test := range map[string]struct {
		op     func(ctx context.Context, s *simStore) (int64, error)
		absent bool // the key is absent at first
		once   bool
		hedged bool
		bytes  bool // what follows the revision that it is conditional on tells what became of it
	}{
		"replace": {hedged: true, bytes: true, op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.Replace(ctx, "k", value, s.mod)
		}},
		"replace once": {hedged: true, once: true, op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.Replace(ctx, "k", value, s.mod, once)
		}},
		"transact": {hedged: true, bytes: true, op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.Transact(ctx, transactOnce(value))
		}},
		"transact once": {hedged: true, once: true, op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.Transact(ctx, transactOnce(value), once)
		}},
		"delete at": {hedged: true, op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.DeleteAt(ctx, "k", s.mod)
		}},
		"put once":    {hedged: true, once: true, op: func(ctx context.Context, s *simStore) (int64, error) { return s.Put(ctx, "k", value, once) }},
		"delete once": {hedged: true, once: true, op: func(ctx context.Context, s *simStore) (int64, error) { return s.Delete(ctx, "k", once) }},
		"create once": {hedged: true, once: true, absent: true, op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.Create(ctx, "k", value, once)
		}},
		"create": {absent: true, op: func(ctx context.Context, s *simStore) (int64, error) { return s.Create(ctx, "k", value) }},
		"put":    {op: func(ctx context.Context, s *simStore) (int64, error) { return s.Put(ctx, "k", value) }},
		"delete": {op: func(ctx context.Context, s *simStore) (int64, error) { return s.Delete(ctx, "k") }},
		"compare and swap": {op: func(ctx context.Context, s *simStore) (int64, error) {
			return s.CompareAndSwap(ctx, "k", []byte("old"), value)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			schedules, unknown, seconds := 0, 0, 0
			late := late
			if !test.hedged {
				late = late[:1] // there is none
			}
			for _, one := range first {
				for _, two := range late {
					for _, m := range others {
						schedules++
						synctest.Test(t, func(t *testing.T) {
							about := fmt.Sprintf("first %+v, second %+v, %+v", one, two, m)
							s := newSimStore(t, "a", "b", "c")
							if test.absent {
								_, err := s.Delete(t.Context(), "k")
								require.NoError(t, err)
							}
							before := s.cluster.sent()
							s.cluster.plan = func(_ int, r *simRequest) simFate {
								switch write, second := s.firstWrites(before, r); r {
								case write:
									return one
								case second:
									return two
								}
								return simFate{applied: ms, answered: ms}
							}
							m.start(s.cluster)
							ctx, stop := context.WithTimeout(t.Context(), hedgeDeadline)
							defer stop()
							began := time.Now()
							rev, err := test.op(ctx, s)
							took := time.Since(began)
							require.LessOrEqual(t, took, hedgeDeadline, about)
							time.Sleep(10 * time.Second) // what is under way arrives

							s.cluster.mu.Lock()
							defer s.cluster.mu.Unlock()
							writes, applied, answered, again := 0, 0, 0, false
							yes := time.Duration(-1) // when it was said that the write was applied
							write, second := s.firstWrites(before, nil)
							for _, r := range s.cluster.requests[before:] {
								if !r.isWrite() {
									continue
								}
								writes++
								if r.yes {
									applied++
								}
								fate, sent := simFate{applied: ms, answered: ms}, time.Duration(0)
								switch r {
								case write:
									fate = one
								case second:
									fate, sent = two, hedgeDelay
									seconds++
								}
								if fate.answered < 0 || fate.err != nil {
									continue
								}
								answered++
								again = again || r != write
								if r.yes && (r == write || r == second) {
									yes = sent + fate.answered
								}
							}
							require.LessOrEqual(t, applied, 1, about)
							if yes >= 0 {
								require.NoError(t, err, "a yes outranks everything: %s", about)
								require.LessOrEqual(t, took, yes+10*ms, about)
							}
							switch {
							case err == nil:
								require.Equal(t, 1, applied, about)
								require.GreaterOrEqual(t, rev, int64(0), about)
							case errs.NotApplied(err):
								require.Zero(t, applied, "%v: %s", err, about)
							default:
								require.ErrorIs(t, err, kv.ErrUnknownOutcome, about)
								unknown++
								require.False(t, test.once && again, "the answer to a later attempt tells all: %v: %s", err, about)
								require.False(t, answered == 2 && writes == 2, "both were answered: %v: %s", err, about)
								next := s.successor()
								require.False(t, test.bytes && answered > 0 && next != "" && next != "mine", "what followed tells: %v: %s", err, about)
							}
							if !test.hedged {
								require.Equal(t, 1, writes, "it is sent once: %s", about)
							}
						})
					}
				}
			}
			t.Logf("%d schedules, %d with a second attempt, %d unknown", schedules, seconds, unknown)
			assert.Equal(t, test.hedged, seconds > 0)
		})
	}
}

// transactOnce returns a function that overwrites "k", and refuses to be called again.
func transactOnce(value []byte) kv.TxFunc {
	return func(_ context.Context, tx *kv.Tx) error {
		if tx.Attempt() > 1 {
			return &errs.Error{Pkg: "test", Op: "transact", NotApplied: true, Err: kv.ErrConflict}
		}
		_, err := tx.Get("k")
		return errors.Join(err, tx.Put("k", value))
	}
}

// isWrite reports whether the request is not a plain read.
func (r *simRequest) isWrite() bool {
	_, read := r.req.(*pb.RangeRequest)
	return !read
}

// firstWrites returns the first write from before on, and the first one that came over a connection
// to one member, nil if there is none. next is the request that is about to be sent, if any. The
// lock of the cluster is held.
func (s *simStore) firstWrites(before int, next *simRequest) (write, second *simRequest) {
	requests := s.cluster.requests[before:]
	if next != nil {
		requests = append(slices.Clip(requests), next)
	}
	for _, r := range requests {
		switch {
		case !r.isWrite():
		case write == nil:
			write = r
		case r.second && second == nil:
			second = r
		}
	}
	return write, second
}

// successor is the value that the key was given next after s.mod, "" if it was none, or deleted
// since. The lock of the cluster is held.
func (s *simStore) successor() (next string) {
	for _, state := range s.cluster.history["k"] {
		switch {
		case state.GetModRevision() <= s.mod:
		case state.GetVersion() == 0:
			return ""
		case next == "":
			next = string(state.GetValue())
		}
	}
	return next
}

// As long as the key has not changed, a "no" does not determine the outcome of the attempt in
// flight: here its guard, which has failed before, holds again.
func TestStore_RejectionIsNotFinalWhileKeyIsUnchanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		s := newSimStore(t, "a", "b")
		_, err := s.Put(t.Context(), "busy", nil)
		require.NoError(t, err)
		before := s.cluster.sent()
		s.cluster.plan = func(n int, _ *simRequest) simFate {
			if n == before {
				return simFate{applied: 100 * ms, answered: 500 * ms}
			}
			return simFate{applied: 600*ms - hedgeDelay, answered: 800*ms - hedgeDelay}
		}
		time.AfterFunc(350*ms, func() {
			s.cluster.mu.Lock()
			defer s.cluster.mu.Unlock()
			s.cluster.rev++
			s.cluster.remove(&pb.DeleteRangeRequest{Key: []byte("busy")}, s.cluster.rev)
		})
		ctx, stop := context.WithTimeout(t.Context(), hedgeDeadline)
		defer stop()
		began := time.Now()
		idle := kv.NewGuard(nil, clientv3.Compare(clientv3.CreateRevision("busy"), "=", 0))
		_, err = s.Replace(ctx, "k", []byte("mine"), s.mod, kv.WithGuard(idle))
		require.NoError(t, err)
		assert.Equal(t, 800*ms, time.Since(began))
		assert.Equal(t, "mine, version 2", s.key())
	})
}
