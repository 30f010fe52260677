package sweep_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/sweep"
)

// fakeStore is etcd as far as a sweeper is concerned: keys that are there, leases that live, and
// what fails.
type fakeStore struct {
	mu      sync.Mutex
	keys    map[string]bool
	leases  map[clientv3.LeaseID]bool // value: renewed by this process
	fails   map[string]error          // by key; "" is all of them
	tries   int
	lookups int
	retired []clientv3.LeaseID
	logs    bytes.Buffer
}

func newFakeStore(leases ...clientv3.LeaseID) *fakeStore {
	f := &fakeStore{keys: map[string]bool{}, leases: map[clientv3.LeaseID]bool{}, fails: map[string]error{}}
	for _, id := range leases {
		f.leases[id] = true
	}
	return f
}

// do has exclusive use of the store.
func (f *fakeStore) do(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
}

func (f *fakeStore) sweeper(t *testing.T) *sweep.Sweeper {
	t.Helper()
	s := sweep.New(t.Context(), sweep.Config{
		Renewed: func(id clientv3.LeaseID) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.leases[id]
		},
		Gone: func(_ context.Context, id clientv3.LeaseID) (bool, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lookups++
			_, there := f.leases[id]
			return !there, f.fails[""]
		},
		Retire: func(id clientv3.LeaseID) { f.do(func() { f.retired = append(f.retired, id) }) },
		Logger: slog.New(slog.NewTextHandler(&f.logs, nil)),
	})
	t.Cleanup(func() { s.Close() })
	return s
}

// key is a key of the store, on a lease.
func (f *fakeStore) key(name string, late bool, leases ...clientv3.LeaseID) sweep.Key {
	return sweep.Key{Name: name, Late: late, Leases: leases, Delete: func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tries++
		if err := errors.Join(f.fails[""], f.fails[name]); err != nil {
			return err
		}
		delete(f.keys, name)
		return nil
	}}
}

func (f *fakeStore) count() (keys, tries, lookups int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.keys), f.tries, f.lookups
}

func TestSweeper_DeletesKeyOnceIfNotLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore(1)
		f.keys["k"] = true
		s := f.sweeper(t)
		k, done := f.key("k", false, 1), 0
		k.Done = func() { done++ }
		s.Add(k)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, 1, done)
		keys, tries, lookups := f.count()
		assert.Zero(t, keys)
		assert.Equal(t, 1, tries)
		assert.Zero(t, lookups)
		assert.Empty(t, f.retired)
		assert.Empty(t, s.Close())
		assert.Empty(t, f.logs.String())
	})
}

func TestSweeper_ContinuesAfterOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		f := newFakeStore(1)
		f.fails[""] = errs.Unavailable
		s := f.sweeper(t)
		for i := range n {
			name := strconv.Itoa(i)
			f.keys[name] = true
			s.Add(f.key(name, false, 1))
		}
		time.Sleep(20 * time.Minute)
		keys, tries, _ := f.count()
		assert.Equal(t, n, keys)
		assert.Less(t, tries, n+20*60, "one key at a time, at a growing pace")
		f.do(func() { f.fails[""] = nil })
		time.Sleep(10 * time.Second)
		keys, _, _ = f.count()
		assert.Zero(t, keys)
		synctest.Wait()
		logs := f.logs.String()
		assert.Equal(t, 2, strings.Count(logs, "\n"), "one record when the outage begins, one when it ends: %s", logs)
		assert.Contains(t, logs, `msg="keys are not deleted yet"`)
		assert.Contains(t, logs, `msg="keys are deleted again"`)
	})
}

func TestSweeper_DeletesLateKeyWhileItsLeaseLives(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{time.Second, 10 * time.Second, 10 * time.Minute, 3 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore(1, 2)
			s := f.sweeper(t)
			s.Add(f.key("k", true, 1, 2))
			time.Sleep(after)
			f.do(func() { f.keys["k"] = true })
			time.Sleep(min(2*after+3*time.Second, 6*time.Minute))
			keys, _, lookups := f.count()
			assert.Zero(t, keys, after)
			assert.Zero(t, lookups, "the leases are renewed here, so they live")
			assert.Equal(t, []clientv3.LeaseID{1, 2}, f.retired)

			f.do(func() { delete(f.leases, 1); f.leases[2] = false })
			time.Sleep(6 * time.Minute)
			_, _, lookups = f.count()
			assert.Positive(t, lookups)
			f.do(func() { delete(f.leases, 2) })
			time.Sleep(6 * time.Minute)
			_, ended, _ := f.count()
			time.Sleep(time.Hour)
			_, tries, _ := f.count()
			assert.Equal(t, ended, tries, "both leases are gone, and so is the key")
			assert.Empty(t, s.Close())
		})
	}
}

func TestSweeper_ContinuesWithOtherKeysAfterRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore(1)
		f.keys["refused"], f.keys["k"] = true, true
		f.fails["refused"] = errs.Permission
		s := f.sweeper(t)
		s.Add(f.key("refused", false, 1))
		s.Add(f.key("k", false, 1))
		time.Sleep(10 * time.Minute)
		keys, _, _ := f.count()
		assert.Equal(t, 1, keys)
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(f.logs.String(), "key is not deleted yet"), "once for each key")
		f.do(func() { delete(f.leases, 1) })
		time.Sleep(6 * time.Minute)
		assert.Empty(t, s.Close(), "the lease is gone, and the key with it")
	})
}

// A refusal is about one key; that etcd is away is about all of them.
func TestSweeper_BacksOffIfLeaseLookupsFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		f := newFakeStore()
		s := f.sweeper(t)
		f.fails[""] = errs.Unavailable // of lookups
		for i := range n {
			k := f.key(strconv.Itoa(i), false, 1)
			k.Delete = func(context.Context) error { f.do(func() { f.tries++ }); return errs.Permission }
			s.Add(k)
		}
		time.Sleep(time.Second)
		_, tries, _ := f.count()
		assert.Less(t, tries, n, "one key at a time")
	})
}

func TestSweeper_ContinuesWithOtherKeysIfOneAlwaysFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore(1)
		f.keys["broken"], f.keys["k"] = true, true
		f.fails["broken"] = errors.New("no one knows why")
		s := f.sweeper(t)
		s.Add(f.key("broken", false, 1))
		s.Add(f.key("k", false, 1))
		time.Sleep(time.Minute)
		keys, _, _ := f.count()
		assert.Equal(t, 1, keys)
	})
}

func TestSweeper_CloseReturnsRemainingKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore(1)
		f.fails[""] = errs.Unavailable
		s := f.sweeper(t)
		s.Add(f.key("a", false, 1))
		s.Add(f.key("b", true, 1))
		time.Sleep(time.Minute)
		left := s.Close()
		if assert.Len(t, left, 2) {
			assert.Equal(t, "a", left[0].Name)
			assert.Equal(t, "b", left[1].Name)
		}
		assert.Nil(t, s.Add(f.key("c", false, 1)))
		assert.Empty(t, s.Close())
	})
}

func TestEntry_StopWaitsForRunningDeletion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore(1)
		s := f.sweeper(t)
		var ended bool
		k := f.key("k", true, 1)
		k.Delete = func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = true
			return ctx.Err()
		}
		k.Done = func() { assert.Fail(t, "it may be there") }
		e := s.Add(k)
		time.Sleep(time.Second)
		e.Stop()
		assert.True(t, ended)
		ended = false
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.False(t, ended, "it is swept no more")
		s.Add(f.key("other", false, 1))
		synctest.Wait()
		_, tries, _ := f.count()
		assert.Equal(t, 1, tries, "the others are")
	})
}

func TestSweeper_EndsWhenClientIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore(1)
		f.fails[""] = errs.Closed
		s := f.sweeper(t)
		s.Add(f.key("k", false, 1))
		time.Sleep(time.Hour)
		_, tries, _ := f.count()
		assert.Equal(t, 1, tries)
		assert.Len(t, s.Close(), 1)
	})
}
