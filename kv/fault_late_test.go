package kv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// attemptFate is what happens to one attempt at a write.
type attemptFate string

const (
	lost attemptFate = "lost" // it arrives, and its answer does not come back
	late attemptFate = "late" // it arrives when everything is over
)

// fakeDelayingKV carries the writes of a client to etcd. The first few meet with a fate; what is
// sent after these is answered.
type fakeDelayingKV struct {
	pb.KVClient

	mu        sync.Mutex
	fates     []attemptFate
	meanwhile func() // runs once, before the first attempt is abandoned
	withheld  []func(context.Context) error
	sent      int
}

// Put carries a put.
func (p *fakeDelayingKV) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	return carry(ctx, p, in, p.KVClient.Put)
}

// Txn carries a transaction.
func (p *fakeDelayingKV) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return carry(ctx, p, in, p.KVClient.Txn)
}

func carry[Q, R any](ctx context.Context, p *fakeDelayingKV, in Q, call func(context.Context, Q, ...grpc.CallOption) (*R, error)) (*R, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	if len(p.fates) == 0 {
		return call(ctx, in)
	}
	met := p.fates[0]
	p.fates = p.fates[1:]
	send := func(ctx context.Context) error { _, err := call(ctx, in); return err }
	if met == late {
		p.withheld = append(p.withheld, send)
	} else if err := send(ctx); err != nil {
		return nil, fmt.Errorf("the attempt that should have arrived: %w", err)
	}
	if p.meanwhile != nil {
		p.meanwhile()
		p.meanwhile = nil
	}
	return nil, status.Error(codes.Unavailable, "the answer did not come")
}

// delayBench is a bench whose writes go by post.
type delayBench struct {
	bench

	post *fakeDelayingKV
}

func newDelayBench(t *testing.T, over func(testing.TB, ...func(*clientv3.Config)) *clientv3.Client) delayBench {
	t.Helper()
	rpcs := etcdtest.Counter(t)
	cli := over(t, rpcs.Option)
	p := &fakeDelayingKV{KVClient: clientv3.RetryKVClient(cli)}
	cli.KV = clientv3.NewKVFromKVClient(p, cli)
	b := benchOver(t, rpcs, cli, over(t))
	b.Store = b.open(kv.WithRetry(kv.RetryPolicy{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}))
	return delayBench{b, p}
}

// meets sets the fates of the next attempts. meanwhile is called before the first of them is
// abandoned.
func (b delayBench) meets(meanwhile func(), fates ...attemptFate) {
	b.post.fates, b.post.meanwhile, b.post.sent = fates, meanwhile, 0
}

// deliver lets the late ones arrive, and checks that all fates came to pass.
func (b delayBench) deliver(t *testing.T) {
	t.Helper()
	require.Empty(t, b.post.fates, "attempts that were not made")
	for _, send := range b.post.withheld {
		require.NoError(t, send(t.Context()))
	}
	b.post.withheld = nil
}

// warm makes a slot, so that the next write finds one.
func (b delayBench) warm(t *testing.T) {
	t.Helper()
	_, err := b.Put(t.Context(), "warm", nil, kv.WithOnce())
	require.NoError(t, err)
}

// state is what etcd has under "k", and where it stands in history.
func (b delayBench) state(t *testing.T) string {
	t.Helper()
	r, err := b.raw.Get(t.Context(), b.dir+"k")
	require.NoError(t, err)
	if len(r.Kvs) == 0 {
		return "<none>"
	}
	return fmt.Sprintf("%s at %d, version %d", r.Kvs[0].GetValue(), r.Kvs[0].GetModRevision(), r.Kvs[0].GetVersion())
}

// inEveryOrder runs a test for each fate of a first attempt and its repeat, with a slot that is new
// and one that is not.
func inEveryOrder(t *testing.T, f func(t *testing.T, b delayBench, fates []attemptFate)) {
	t.Helper()
	for _, fates := range [][]attemptFate{{lost}, {late}, {lost, lost}, {lost, late}, {late, lost}, {late, late}} {
		for _, slot := range []string{"new slot", "used slot"} {
			t.Run(strings.Trim(fmt.Sprint(fates), "[]")+" "+slot, func(t *testing.T) {
				t.Parallel()
				b := newDelayBench(t, etcdtest.Client)
				if slot == "used slot" {
					b.warm(t)
				}
				f(t, b, fates)
				b.warm(t)
				assert.Len(t, b.slots(t), 1, "the slot was not lost over it")
				assert.Equal(t, 1, b.rpcs.Count("Lease/LeaseGrant"))
			})
		}
	}
}

// Whichever attempt arrives first takes effect; the answer is definite; and what arrives afterwards
// undoes nothing that others have written since.
func TestWithOnce_AppliesOnceInAnyOrderOfAttempts(t *testing.T) {
	t.Parallel()
	once := kv.WithOnce()
	type test struct {
		before, after string // values, none where empty
		op            func(ctx context.Context, s *kv.Store, mod int64) (int64, error)
	}
	for name, test := range map[string]test{
		"put": {"", "new", func(ctx context.Context, s *kv.Store, _ int64) (int64, error) {
			return s.Put(ctx, "k", []byte("new"), once)
		}},
		"create": {"", "new", func(ctx context.Context, s *kv.Store, _ int64) (int64, error) {
			return s.Create(ctx, "k", []byte("new"), once)
		}},
		"replace": {"old", "new", func(ctx context.Context, s *kv.Store, mod int64) (int64, error) {
			return s.Replace(ctx, "k", []byte("new"), mod, once)
		}},
		"update that creates": {"", "new", func(ctx context.Context, s *kv.Store, _ int64) (int64, error) {
			e, err := s.Update(ctx, "k", func(raw) ([]byte, error) { return []byte("new"), nil }, once, kv.WithUpsert())
			return e.ModRevision, err
		}},
		"delete": {"old", "", func(ctx context.Context, s *kv.Store, _ int64) (int64, error) { return s.Delete(ctx, "k", once) }},
		"delete at": {"old", "", func(ctx context.Context, s *kv.Store, mod int64) (int64, error) {
			return s.DeleteAt(ctx, "k", mod, once)
		}},
		"batch": {"", "new", func(ctx context.Context, s *kv.Store, _ int64) (int64, error) {
			return s.Batch(ctx, kv.OpPut("k", []byte("new"), once), kv.OpPut("beside", nil))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inEveryOrder(t, func(t *testing.T, b delayBench, fates []attemptFate) {
				reset := func() (mod int64) {
					if test.before == "" {
						b.remove(t, "k")
						return 0
					}
					return b.put(t, "k", test.before)
				}
				mod := reset()
				b.meets(nil, fates...)
				rev, err := test.op(t.Context(), b.Store, mod)
				require.NoError(t, err)
				assert.Positive(t, rev)
				want := "<none>"
				if test.after != "" {
					want = fmt.Sprintf("%s at %d, version %d", test.after, rev, 1+len(test.before)/len("old"))
				}
				assert.Equal(t, want, b.state(t))
				reset()
				want = b.state(t)
				b.deliver(t)
				assert.Equal(t, want, b.state(t), "an attempt that came late took effect")
			})
		})
	}
}

// A refusal is final: the first answered repeat is definite, and no attempt can succeed later, when
// the condition holds.
func TestWithOnce_RejectionIsFinalInAnyOrderOfAttempts(t *testing.T) {
	t.Parallel()
	absent := func(b delayBench) kv.Guard {
		return kv.NewGuard(nil, clientv3.Compare(clientv3.CreateRevision(b.dir+"there"), "=", 0))
	}
	for name, test := range map[string]struct {
		want error
		op   func(ctx context.Context, b delayBench) error
	}{
		"create": {kv.ErrExists, func(ctx context.Context, b delayBench) error {
			_, err := b.Create(ctx, "there", []byte("mine"), kv.WithOnce())
			return err
		}},
		"guarded put": {kv.ErrGuard, func(ctx context.Context, b delayBench) error {
			_, err := b.Put(ctx, "there", []byte("mine"), kv.WithOnce(), kv.WithGuard(absent(b)))
			return err
		}},
		"guarded batch": {kv.ErrGuard, func(ctx context.Context, b delayBench) error {
			_, err := b.Batch(ctx, kv.OpPut("there", []byte("mine"), kv.WithOnce(), kv.WithGuard(absent(b))))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inEveryOrder(t, func(t *testing.T, b delayBench, fates []attemptFate) {
				b.put(t, "there", "theirs")
				b.meets(nil, fates...)
				err := test.op(t.Context(), b)
				require.ErrorIs(t, err, test.want)
				require.NotErrorIs(t, err, kv.ErrUnknownOutcome)
				assert.True(t, errs.NotApplied(err))
				assert.Equal(t, len(fates)+1, b.post.sent, "attempts")
				assert.Equal(t, "theirs", b.value(t, "there"))
				b.remove(t, "there")
				b.deliver(t)
				assert.Equal(t, "<none>", b.value(t, "there"), "an attempt that came late took effect")
			})
		})
	}
}

// If the slot is lost, it is unknown whether an earlier attempt was applied, and the write is not
// repeated.
func TestWithOnce_LostSlotMakesOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for _, used := range []bool{false, true} {
		b := newDelayBench(t, etcdtest.Client)
		if used {
			b.warm(t)
		}
		b.meets(func() {
			slots := b.slots(t)
			require.Len(t, slots, 1)
			_, err := b.raw.Revoke(t.Context(), clientv3.LeaseID(slots[0].GetLease()))
			require.NoError(t, err)
		}, lost)
		_, err := b.Put(t.Context(), "k", []byte("x"), kv.WithOnce())
		require.ErrorIs(t, err, kv.ErrUnknownOutcome)
		assert.False(t, errs.NotApplied(err))
		assert.Equal(t, 2, b.post.sent, "attempts")
		e, err := b.Get(t.Context(), "k")
		require.NoError(t, err)
		assert.EqualValues(t, 1, e.Version, "applied once")
		b.warm(t)
	}
}

// An operation must be over, repeats and all, before its slot ends with the lease.
func TestWithOnce_ReplacesLeaseAtHalfTTL(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	write := func() {
		_, err := b.Put(t.Context(), "k", nil, kv.WithOnce())
		require.NoError(t, err)
	}
	write()
	b.AgeSlots(25 * time.Second)
	b.costs(t, rpc("KV/Txn", 1), write)
	b.AgeSlots(5 * time.Second)
	b.costs(t, map[string]int{"Lease/LeaseGrant": 1, "KV/Txn": 1}, write)
	slots := b.slots(t)
	require.Len(t, slots, 2)
	assert.NotEqual(t, slots[0].GetLease(), slots[1].GetLease())
}

func TestDeletePrefix_ReturnsMinusOneForUnknownCount(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	b := newDelayBench(t, srv.Client)
	b.put(t, "dir/a", "")
	b.put(t, "dir/b", "")
	b.meets(func() { srv.Compact(0) }, lost)
	n, rev, err := b.DeletePrefix(t.Context(), "dir/", kv.WithOnce())
	require.NoError(t, err)
	assert.EqualValues(t, -1, n)
	slots := b.slots(t)
	require.Len(t, slots, 1)
	assert.Equal(t, slots[0].GetModRevision(), rev)
	assert.Equal(t, "<none>", b.value(t, "dir/a"))
}

// What may have been written stays for its time: the lease is taken back only from a write that was
// refused for good.
func TestWithTTL_UnknownOutcomeKeepsLease(t *testing.T) {
	t.Parallel()
	ttl := kv.WithTTL(10 * time.Second)
	for name, op := range map[string]func(ctx context.Context, s *kv.Store, mod int64) error{
		"put": func(ctx context.Context, s *kv.Store, _ int64) error { _, err := s.Put(ctx, "k", nil, ttl); return err },
		"replace": func(ctx context.Context, s *kv.Store, mod int64) error {
			return errOf(s.Replace(ctx, "k", nil, mod, ttl))
		},
		"batch": func(ctx context.Context, s *kv.Store, _ int64) error {
			return errOf(s.Batch(ctx, kv.OpPut("k", nil, ttl)))
		},
	} {
		b := newDelayBench(t, etcdtest.Client)
		mod := b.put(t, "k", "old")
		b.meets(nil, lost)
		require.ErrorIs(t, op(t.Context(), b.Store, mod), kv.ErrUnknownOutcome, name)
		assert.Empty(t, b.value(t, "k"), name)
		lease := b.leaseOf(t, "k")
		require.NotZero(t, lease, name)
		left, err := b.raw.TimeToLive(t.Context(), lease)
		require.NoError(t, err)
		assert.Positive(t, left.TTL, name)
		assert.Zero(t, b.rpcs.Count("Lease/LeaseRevoke"), name)
	}
}

func errOf(_ int64, err error) error { return err }

// Without a slot it is the state right after the one that the write was conditional on that tells
// what became of it.
func TestReplace_NextStateDecidesOutcome(t *testing.T) {
	t.Parallel()
	replace := func(ctx context.Context, s *kv.Store, mod int64) error {
		return errOf(s.Replace(ctx, "k", []byte("mine"), mod))
	}
	deleteAt := func(ctx context.Context, s *kv.Store, mod int64) error { return errOf(s.DeleteAt(ctx, "k", mod)) }
	const gone = "<none>"
	var applied error
	for name, test := range map[string]struct {
		op        func(ctx context.Context, s *kv.Store, mod int64) error
		fate      attemptFate
		meanwhile []string // values that others write
		want      error
	}{
		"a replace that comes late and undisturbed was applied": {replace, late, nil, applied},
		"an applied replace is unknown":                         {replace, lost, nil, kv.ErrUnknownOutcome},
		"also when it was deleted since":                        {replace, lost, []string{gone}, kv.ErrUnknownOutcome},
		"or deleted and created":                                {replace, lost, []string{gone, "theirs"}, kv.ErrUnknownOutcome},
		"or overwritten":                                        {replace, lost, []string{"theirs"}, kv.ErrUnknownOutcome},
		"or overwritten twice":                                  {replace, lost, []string{"theirs", "others"}, kv.ErrUnknownOutcome},
		"a replace of a key deleted before is unknown":          {replace, late, []string{gone}, kv.ErrUnknownOutcome},
		"also when it was created again":                        {replace, late, []string{gone, "theirs"}, kv.ErrUnknownOutcome},
		"a replace after the same value is unknown":             {replace, late, []string{"mine"}, kv.ErrUnknownOutcome},
		"a replace after another value is a conflict":           {replace, late, []string{"theirs"}, kv.ErrConflict},
		"a replace after two others is a conflict":              {replace, late, []string{"theirs", "others"}, kv.ErrConflict},
		"also when the second had the same value":               {replace, late, []string{"theirs", "mine"}, kv.ErrConflict},
		"a delete that comes late and undisturbed was applied":  {deleteAt, late, nil, applied},
		"an applied delete is unknown":                          {deleteAt, lost, nil, kv.ErrUnknownOutcome},
		"also when the key was created since":                   {deleteAt, lost, []string{"theirs"}, kv.ErrUnknownOutcome},
		"a delete of a key deleted before is unknown":           {deleteAt, late, []string{gone}, kv.ErrUnknownOutcome},
		"a delete of a key that was changed is a conflict":      {deleteAt, late, []string{"theirs"}, kv.ErrConflict},
		"also when it was changed to nothing":                   {deleteAt, late, []string{""}, kv.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDelayBench(t, etcdtest.Client)
			mod := b.put(t, "k", "old")
			b.meets(func() {
				for _, value := range test.meanwhile {
					if value == gone {
						b.remove(t, "k")
					} else {
						b.put(t, "k", value)
					}
				}
			}, test.fate)
			err := test.op(t.Context(), b.Store, mod)
			require.ErrorIs(t, err, test.want)
			assert.Equal(t, !errors.Is(err, kv.ErrUnknownOutcome), err == nil || errs.NotApplied(err))
			state := b.state(t)
			b.deliver(t)
			assert.Equal(t, state, b.state(t), "an attempt that came late took effect")
		})
	}
}
