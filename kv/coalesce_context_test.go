package kv_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

var errOwnReason = errors.New("the user has left")

// holdShared lets transactions wait until the channel is closed or their context ends.
func holdShared(s *fakeKVServer) chan struct{} {
	hold := make(chan struct{})
	s.before = func(ctx context.Context, m proto.Message) error {
		if sizeOf(m) == 0 {
			return nil
		}
		select {
		case <-hold:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return hold
}

func TestCoalesce_CanceledWaitingCallIsNotSent(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]func(string) clientv3.Op{"get": getOf, "put": putOf, "delete": delOf} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				clearUp := blockDirectCalls(t, s, k, op)
				ctx, stop := context.WithCancelCause(t.Context())
				before := asyncDo(t.Context(), k, op("a"))
				gone := asyncDo(ctx, k, op("gone"))
				others := []<-chan callResult{before}
				for i := range 5 {
					others = append(others, asyncDo(t.Context(), k, op("k"+strconv.Itoa(i))))
				}
				stop(errOwnReason)
				err := (<-gone).err
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, err, errOwnReason)
				if name != "get" {
					assert.True(t, errs.NotApplied(err), "it is known that it was not applied")
					assert.NotErrorIs(t, err, kv.ErrUnknownOutcome)
					assert.EqualError(t, err, "kv: "+name+` "gone": context canceled: the user has left`)
				}
				clearUp()
				assert.Equal(t, []int{6}, s.asked())
				for _, c := range others {
					require.NoError(t, (<-c).err)
				}
				_, version := s.value("gone")
				assert.Zero(t, version)
			})
		})
	}
}

func TestCoalesce_LastWaitingCallCanBeCanceled(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, putOf)
		ctx, stop := context.WithTimeout(t.Context(), kv.MaxBatchWait/2)
		defer stop()
		err := (<-asyncDo(ctx, k, putOf("gone"))).err
		require.ErrorIs(t, err, context.DeadlineExceeded)
		clearUp()
		time.Sleep(time.Second)
		assert.Empty(t, s.asked())
		require.NoError(t, (<-asyncDo(t.Context(), k, putOf("a"))).err)
	})
}

func TestCoalesce_CanceledCallDoesNotEndOthers(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]func(string) clientv3.Op{"get": getOf, "put": putOf, "delete": delOf} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				hold := holdShared(s)
				clearUp := blockDirectCalls(t, s, k, op)
				var stops []context.CancelFunc
				var calls []<-chan callResult
				for i := range 10 {
					ctx, stop := context.WithTimeout(t.Context(), time.Minute)
					t.Cleanup(stop)
					stops, calls = append(stops, stop), append(calls, asyncDo(ctx, k, op("k"+strconv.Itoa(i))))
				}
				clearUp()
				assert.Equal(t, []int{10}, s.asked(), "it is under way")
				for i := range 9 {
					stops[i]()
					err := (<-calls[i]).err
					require.ErrorIs(t, err, context.Canceled)
					assert.False(t, errs.NotApplied(err), "it may have been applied")
				}
				synctest.Wait()
				require.NoError(t, s.lastCtx().Err())
				close(hold)
				require.NoError(t, (<-calls[9]).err)
				if name == "put" {
					_, version := s.value("k0")
					assert.EqualValues(t, 1, version, "the test is about nothing")
				}
			})
		})
	}
}

func TestCoalesce_LastCallerCancelsTransaction(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		holdShared(s)
		clearUp := blockDirectCalls(t, s, k, putOf)
		ctx, stop := context.WithCancel(t.Context())
		var calls []<-chan callResult
		for i := range 10 {
			calls = append(calls, asyncDo(ctx, k, putOf("k"+strconv.Itoa(i))))
		}
		clearUp()
		shared := s.lastCtx()
		require.NoError(t, shared.Err())
		stop()
		for _, c := range calls {
			require.ErrorIs(t, (<-c).err, context.Canceled)
		}
		synctest.Wait()
		require.ErrorIs(t, shared.Err(), context.Canceled)
		s.before = nil
		require.NoError(t, (<-asyncDo(t.Context(), k, putOf("a"))).err)
	})
}

// A deadline bounds its own call, and a call without one is not bounded by the others'.
func TestCoalesce_DeadlineAppliesToItsCallOnly(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		hold := holdShared(s)
		clearUp := blockDirectCalls(t, s, k, getOf)
		value := context.WithValue(t.Context(), ctxKey{}, "mine")
		hasty, stop := context.WithTimeout(value, time.Second)
		defer stop()
		began := time.Now()
		first, second, third := asyncDo(hasty, k, getOf("a")), asyncDo(t.Context(), k, getOf("b")), asyncDo(value, k, getOf("c"))
		clearUp()
		require.ErrorIs(t, (<-first).err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))
		time.Sleep(time.Hour)
		_, bounded := s.lastCtx().Deadline()
		assert.False(t, bounded)
		assert.Nil(t, s.lastCtx().Value(ctxKey{}), "what one caller has in its context reaches the others' request")
		close(hold)
		require.NoError(t, (<-second).err)
		require.NoError(t, (<-third).err)
	})
}

func TestCoalesce_EndedContextReturnsClientError(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		s.before = func(ctx context.Context, _ proto.Message) error { return ctx.Err() }
		clearUp := blockDirectCalls(t, s, k, putOf)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		assert.Equal(t, context.Canceled, (<-asyncDo(ctx, k, putOf("a"))).err)
		clearUp()
	})
}

// The context of a call may end at the moment at which the call becomes a direct one, or at which
// its result arrives.
func TestCoalesce_CancelNeverLeaksDirectCalls(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		s.before = func(context.Context, proto.Message) error { time.Sleep(time.Millisecond); return nil }
		var done []chan struct{}
		for i := range 40 {
			over := make(chan struct{})
			done = append(done, over)
			go func() {
				defer close(over)
				for n := range 200 {
					ctx, stop := context.WithTimeout(t.Context(), time.Duration((n+i)%4)*time.Millisecond+1)
					_, err := k.Put(ctx, "k"+strconv.Itoa(i%20), "v")
					stop()
					if err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
				}
			}()
		}
		for _, over := range done {
			<-over
		}
		time.Sleep(time.Second)
		before := len(s.asked())
		began := time.Now()
		var calls []<-chan callResult
		for i := range kv.MaxDirectCalls {
			calls = append(calls, asyncDo(t.Context(), k, putOf("z"+strconv.Itoa(i))))
		}
		for _, c := range calls {
			require.NoError(t, (<-c).err)
		}
		assert.Less(t, time.Since(began), 10*time.Millisecond)
		assert.Len(t, s.asked(), before+kv.MaxDirectCalls, "each goes by itself, as in the beginning")
	})
}
