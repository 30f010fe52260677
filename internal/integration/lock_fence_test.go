//nolint:paralleltest // each test has a server, and the machine, to itself
package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// fenceDir is what everything of the test of guards is below.
const fenceDir = "suite/"

// guardedWrite and plainWrite write the token of a hold, with its guard and without.
func guardedWrite(ctx context.Context, s *kv.Store, name string, h *lock.Held) error {
	_, err := s.Put(ctx, "guarded/"+name, []byte(strconv.FormatInt(h.Token(), 10)), kv.WithGuard(h))
	return err
}

func plainWrite(ctx context.Context, s *kv.Store, name string, h *lock.Held) error {
	_, err := s.Put(ctx, "plain/"+name, []byte(strconv.FormatInt(h.Token(), 10)))
	return err
}

// fence is what the trials of the test of guards share.
type fence struct {
	srv    *etcdtest.Server
	direct *clientv3.Client
	heir   *etcdkit.Client

	// How long former holders did not know, while the next one held.
	mu                 sync.Mutex
	watched, unwatched []time.Duration
}

// loss is a way in which a hold ends against its holder's will, or goes to the next goroutine.
type loss func(t *testing.T, f *fence, h *lock.Held, name string)

func (f *fence) keyOf(t *testing.T, name string, h *lock.Held) (key string, lease clientv3.LeaseID) {
	t.Helper()
	r, err := f.direct.Get(t.Context(), fenceDir+"locks/"+name+"/", clientv3.WithFirstCreate()...)
	require.NoError(t, err)
	require.NotEmpty(t, r.Kvs, "the holder has no key")
	require.LessOrEqual(t, r.Kvs[0].ModRevision, h.Token())
	return string(r.Kvs[0].Key), clientv3.LeaseID(r.Kvs[0].Lease)
}

func revoke(t *testing.T, f *fence, h *lock.Held, name string) {
	_, lease := f.keyOf(t, name, h)
	_, err := f.direct.Revoke(t.Context(), lease)
	require.NoError(t, err)
}

func deleteKey(t *testing.T, f *fence, h *lock.Held, name string) {
	key, _ := f.keyOf(t, name, h)
	_, err := f.direct.Delete(t.Context(), key)
	require.NoError(t, err)
}

func handOver(t *testing.T, _ *fence, h *lock.Held, _ string) {
	require.NoError(t, h.Release(t.Context()))
}

// lose makes one trial: a holder goes on writing while its hold is taken from it, and after another
// one has it. That one is another goroutine of the process where locally is set. Holds that are
// watched are those of more than a moment.
func (f *fence) lose(t *testing.T, name string, take loss, locally, watched bool) {
	ttl := lock.WithTTL(shortTTL)
	own, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: f.srv.Endpoints()}) // lockers of one client share their lease
	require.NoError(t, err)
	holder := own.Namespace(fenceDir)
	mine, theirs := etcdtest.Must(lock.New(holder, ttl)), etcdtest.Must(lock.New(f.heir, ttl))
	defer func() { assert.NoError(t, errors.Join(mine.Close(), theirs.Close(), own.Close())) }()
	h, err := mine.Mutex(name).Lock(t.Context())
	require.NoError(t, err)
	next := theirs
	if locally {
		next = mine
	}
	var knew time.Time
	knows := make(chan struct{})
	context.AfterFunc(h.Context(), func() {
		knew = time.Now()
		close(knows)
	})
	type grant struct {
		h   *lock.Held
		at  time.Time
		err error
	}
	heir := make(chan grant, 1)
	go func() {
		h, err := next.Mutex(name).Lock(t.Context())
		heir <- grant{h, time.Now(), err}
	}()
	require.Eventually(t, func() bool { return next.Stats().Waiting == 1 }, 10*time.Second, time.Millisecond)

	inherited := make(chan struct{})
	wrote := make(chan int, 1)
	go func() { // whatever its context says
		n := 0
		for after := 0; after < 3; { // a few more when the next one has it
			if err := guardedWrite(t.Context(), holder.KV(), name, h); err == nil {
				n++
			}
			select {
			case <-inherited:
				after++
			default:
			}
		}
		wrote <- n
	}()
	if watched {
		require.Eventually(t, func() bool { return mine.Stats().Watched == 1 }, 10*time.Second, time.Millisecond)
	}
	take(t, f, h, name)
	g := <-heir
	require.NoError(t, g.err)
	assert.Greater(t, g.h.Token(), h.Token())
	close(inherited)
	assert.NoError(t, guardedWrite(t.Context(), f.heir.KV(), name, g.h), "the next one may")
	<-wrote
	err = guardedWrite(t.Context(), holder.KV(), name, h)
	assert.ErrorIs(t, err, kv.ErrGuard)
	assert.ErrorIs(t, err, lock.ErrLost)
	assert.NoError(t, plainWrite(t.Context(), holder.KV(), name, h), "nothing keeps a write without a guard away")
	<-knows
	f.mu.Lock()
	if watched {
		f.watched = append(f.watched, knew.Sub(g.at))
	} else {
		f.unwatched = append(f.unwatched, knew.Sub(g.at))
	}
	f.mu.Unlock()
	require.NoError(t, g.h.Release(t.Context()))
}

// trials makes n trials of a kind, some at a time.
func (f *fence) trials(t *testing.T, kind string, n int, take loss, locally bool) {
	t.Helper()
	f.watched, f.unwatched = nil, nil
	began := time.Now()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f.lose(t, fmt.Sprint(kind, i), take, locally, i%2 == 0)
		})
	}
	wg.Wait()
	for which, all := range map[string][]time.Duration{"a key that is watched": f.watched, "one that is not yet": f.unwatched} {
		slices.Sort(all)
		t.Logf("%s, with %s: the former holder knew, counted from the next one's grant, after %v (median), %v (at the latest)",
			kind, which, all[len(all)/2].Round(time.Microsecond), all[len(all)-1].Round(time.Microsecond))
	}
	t.Logf("%d %s in %v", n, kind, time.Since(began).Round(time.Millisecond))
}

// stopped stops a process that holds names until others hold them, and lets it go on.
func (f *fence) stopped(t *testing.T, kind string, n int) {
	t.Helper()
	child := newChild(t, "writer", f.srv.Endpoints())
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint(kind, i))
	}
	child.tell(strings.Join(names, " "))
	require.Equal(t, "holding", <-child.lines)
	l := etcdtest.Must(lock.New(f.heir, lock.WithTTL(shortTTL)))
	defer func() { assert.NoError(t, l.Close()) }()
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			h, err := l.Mutex(name).Lock(t.Context())
			if assert.NoError(t, err) {
				assert.NoError(t, guardedWrite(t.Context(), f.heir.KV(), name, h))
			}
		})
	}
	require.Eventually(t, func() bool { return l.Stats().Waiting == n }, 10*time.Second, time.Millisecond)
	began := time.Now()
	child.signal(syscall.SIGSTOP)
	wg.Wait()
	child.signal(syscall.SIGCONT)
	assert.Equal(t, fmt.Sprintf("0 accepted, %d refused, 0 valid", n), <-child.lines)
	t.Logf("%d holds of a stopped process were the next ones' after %v", n, time.Since(began).Round(time.Millisecond))
}

// writeUntilStopped is what the process of that does: it takes names, and writes until it was
// stopped, and then once more to each before it looks at anything.
func writeUntilStopped(t *testing.T, endpoints []string, orders *bufio.Scanner) {
	c := open(t, endpoints).Namespace(fenceDir)
	l := etcdtest.Must(lock.New(c, lock.WithTTL(shortTTL)))
	require.True(t, orders.Scan())
	holds := map[string]*lock.Held{}
	for name := range strings.FieldsSeq(orders.Text()) {
		h, err := l.Mutex(name).Lock(t.Context())
		require.NoError(t, err)
		holds[name] = h
	}
	last := time.Now() // before anybody can know that it is time to stop this process
	say("holding")
	for now := last; now.Sub(last) < shortTTL*3/4; {
		for name, h := range holds {
			if last, now = now, time.Now(); now.Sub(last) >= shortTTL*3/4 {
				break
			}
			if err := guardedWrite(t.Context(), c.KV(), name, h); err != nil {
				require.ErrorIs(t, err, lock.ErrLost)
			}
		}
	}
	var accepted, refused, valid int
	for name, h := range holds {
		switch err := guardedWrite(t.Context(), c.KV(), name, h); {
		case err == nil:
			accepted++
		case errors.Is(err, lock.ErrLost):
			refused++
		}
		assert.NoError(t, plainWrite(t.Context(), c.KV(), name, h))
	}
	for _, h := range holds {
		if h.Err() == nil {
			valid++
		}
		require.ErrorIs(t, h.Release(t.Context()), lock.ErrLost)
	}
	require.NoError(t, l.Close())
	say("%d accepted, %d refused, %d valid", accepted, refused, valid)
}

func TestLock_GuardRejectsWritesOfFormerHolders(t *testing.T) {
	srv := etcdtest.Start(t)
	f := &fence{srv: srv, direct: srv.Client(t), heir: open(t, srv.Endpoints()).Namespace(fenceDir)}
	truth := newChronicle(t, srv.Client(t), fenceDir, func() int64 { return 0 })
	each, abreast := scale(10, 250), scale(10, 50)
	f.trials(t, "revoked", each, revoke, false)
	f.trials(t, "deleted", each, deleteKey, false)
	f.trials(t, "handed", each, handOver, true)
	for i := range each / abreast {
		f.stopped(t, fmt.Sprint("stopped", i, "."), abreast)
	}
	changes := truth.read(t)
	rightful, trespassing := trespasses(changes, "guarded")
	_, plain := trespasses(changes, "plain")
	t.Logf("%d losses: %d guarded writes were accepted, %d of them of former holders; without a guard: %d", 4*each, rightful+trespassing, trespassing, plain)
	assert.Zero(t, trespassing)
	assert.Equal(t, 4*each, plain, "each former holder's write without a guard")
	assert.Greater(t, rightful, 4*each)
	assertEmpty(t, f.direct, fenceDir+"locks/")
}
