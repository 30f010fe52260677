package lock_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/lock"
)

func requests(counts map[string]int) (n int) {
	for _, one := range counts {
		n += one
	}
	return n
}

// theirRequests counts what client/v3's mutex sends to lock and to unlock.
func theirRequests(t *testing.T, f *fakeEtcd) (toLock, toUnlock int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s, err := concurrency.NewSession(f.client(ctx), concurrency.WithTTL(int(slowTTL.Seconds())))
	require.NoError(t, err)
	m := concurrency.NewMutex(s, "theirs")
	f.count()
	require.NoError(t, m.Lock(ctx))
	toLock = requests(f.count())
	require.NoError(t, m.Unlock(ctx))
	toUnlock = requests(f.count())
	require.NoError(t, s.Close())
	return toLock, toUnlock
}

func TestMutex_SlowLinkCostsAsManyRequestsAsClientV3(t *testing.T) {
	t.Parallel()
	for _, rtt := range []time.Duration{100 * time.Millisecond, 3 * time.Second, 10 * time.Second} {
		t.Run(rtt.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(rtt)
				theirLock, theirUnlock := theirRequests(t, f)
				l := f.locker(t)
				ctx, stop := context.WithTimeout(t.Context(), time.Hour)
				defer stop()
				f.count()

				began := time.Now()
				h, err := l.Mutex("m").Lock(ctx)
				require.NoError(t, err)
				assert.Equal(t, rtt, time.Since(began))
				assert.Equal(t, theirLock, requests(f.count()), "Lock")
				require.NoError(t, h.Release(ctx))
				assert.Equal(t, theirUnlock, requests(f.count()), "Release")
				assert.Empty(t, f.lockKeys())
			})
		})
	}
}

// A waiter confirms its blocker, checks the queue when the blocker goes, and checks it every 30 s.
// client/v3 reads as often.
func TestMutex_WaitOverSlowLinkIsGranted(t *testing.T) {
	t.Parallel()
	for _, rtt := range []time.Duration{3 * time.Second, 10 * time.Second} {
		t.Run(rtt.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(rtt)
				a, b := f.locker(t), f.locker(t)
				ctx, stop := context.WithTimeout(t.Context(), time.Hour)
				defer stop()
				h, err := a.Mutex("m").Lock(ctx)
				require.NoError(t, err)
				next := waiting(func() (*lock.Held, error) { return b.Mutex("m").Lock(ctx) })
				time.Sleep(10 * rtt)
				f.count()
				require.NoError(t, h.Release(ctx))
				r := <-next
				require.NoError(t, r.err)
				assert.Equal(t, 2, requests(f.count()), "release, look")
				assert.Greater(t, r.v.Token(), h.Token())
				require.NoError(t, r.v.Release(ctx))
				assert.Empty(t, f.lockKeys())
			})
		})
	}
}

// A frozen member sends no response until keepalive ends the connection, and may apply requests
// later. A member whose leader is frozen gives up on a write after 7 s.
func TestMutex_FrozenMemberDelaysLockAndRepeatsItOnce(t *testing.T) {
	t.Parallel()
	const never = -time.Second
	for name, first := range map[string]fakeFate{
		"frozen member":               {applied: never, answered: 14 * time.Second, err: errLost},
		"member that thaws":           {applied: 40 * time.Second, answered: 14 * time.Second, err: errLost},
		"frozen leader":               {applied: never, answered: 7 * time.Second, err: rpctypes.ErrGRPCTimeoutDueToLeaderFail},
		"frozen leader that commits":  {applied: time.Millisecond, answered: 7 * time.Second, err: rpctypes.ErrGRPCTimeout},
		"frozen leader that thaws":    {applied: 40 * time.Second, answered: 7 * time.Second, err: rpctypes.ErrGRPCTimeout},
		"connection that breaks late": {applied: 13 * time.Second, answered: 14 * time.Second, err: errLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(2 * time.Millisecond)
				a, b := f.locker(t), f.locker(t)
				f.count()
				f.fate = func(method string, n int) fakeFate {
					if method == "txn" && n == 1 {
						return first
					}
					return fakeFate{applied: time.Millisecond, answered: 2 * time.Millisecond}
				}
				ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
				defer stop()
				began := time.Now()
				h, err := a.Mutex("m").Lock(ctx)
				require.NoError(t, err)
				assert.GreaterOrEqual(t, time.Since(began), first.answered, "the first attempt keeps its time")
				sent := requests(f.count())
				if first.applied > 0 && first.applied < first.answered {
					sent-- // it looks, since it does not know who was ahead
				}
				assert.Equal(t, 2, sent)
				require.NoError(t, h.Release(ctx))

				next, err := b.Mutex("m").Lock(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Minute) // what is late is carried out
				require.NoError(t, next.Release(t.Context()))
				assert.Greater(t, next.Token(), h.Token())
				mustEventually(t, 10*time.Minute, func() bool { return len(f.lockKeys()) == 0 }, "the late key is swept")
				time.Sleep(time.Hour)
				assert.Empty(t, f.lockKeys())
			})
		})
	}
}

// Responses are lost, requests are applied late or never, and callers give up. There is never more
// than one holder, tokens rise, and in the end no key is left.
func TestMutex_LostAnswersNeverYieldTwoHolders(t *testing.T) {
	t.Parallel()
	seeds := 20
	if long() {
		seeds = 500
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			const lockers, rounds = 4, 8
			r := rand.New(rand.NewPCG(uint64(seed), 0))
			f := newFake(10 * time.Millisecond)
			all := make([]*lock.Locker, lockers)
			for i := range all {
				all[i] = f.locker(t)
			}
			f.fate = func(string, int) fakeFate { // with the lock of the fake held
				half := time.Duration(r.IntN(10)+1) * time.Millisecond
				switch r.IntN(6) {
				case 0: // applied, and the answer is lost
					return fakeFate{applied: half, answered: 2 * half, err: errLost}
				case 1: // applied after its connection broke
					return fakeFate{applied: time.Duration(r.IntN(3000)) * time.Millisecond, answered: half, err: errLost}
				case 2: // lost on the way
					return fakeFate{applied: -1, answered: half, err: errLost}
				}
				return fakeFate{applied: half, answered: 2 * half}
			}
			var holders, granted atomic.Int32
			var top atomic.Int64
			var wg sync.WaitGroup
			for i, l := range all {
				random := rand.New(rand.NewPCG(uint64(seed), uint64(i+1)))
				wg.Go(func() {
					for range rounds {
						ctx, stop := context.WithTimeout(t.Context(), time.Duration(random.IntN(2000))*time.Millisecond)
						h, err := l.Mutex("m").Lock(ctx)
						stop()
						if err != nil {
							assert.NotErrorIs(t, err, lock.ErrUnknownOutcome, "it does not hold, for certain")
							continue
						}
						granted.Add(1)
						assert.EqualValues(t, 1, holders.Add(1), "seed %d", seed)
						assert.Less(t, top.Swap(h.Token()), h.Token(), "seed %d", seed)
						time.Sleep(time.Millisecond)
						holders.Add(-1)
						_ = h.Release(t.Context()) // its answer may be lost
					}
				})
			}
			wg.Wait()
			assert.Positive(t, granted.Load(), "seed %d", seed)
			f.heal()
			time.Sleep(time.Hour)
			assert.Empty(t, f.lockKeys(), "seed %d", seed)
		})
	}
}
