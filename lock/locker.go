package lock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/closing"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/sweep"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Client provides the parts that a [Locker] uses: *etcdkit.Client, or parts of your own, which must
// be in one namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
	Leases() *lease.Manager
}

// Locker creates locks and elections. They share its session, its watches and its places in the
// queues. It is safe for concurrent use. A process usually needs only one.
type Locker struct {
	options

	sessionOptions []lease.SessionOption
	err            error // of an invalid part: every call returns it
	sender         retry.Sender
	store          *kv.Store
	watcher        *watch.Watcher
	leases         *lease.Manager
	namespace      string         // the dir of store; this package uses whole keys
	id             string         // part of the nonce of every key
	sweeper        *sweep.Sweeper // of the lease manager

	keyWatcher     *keywatch.Watcher
	watchThreshold time.Duration // age at which a hold watches its key
	checkInterval  time.Duration // longest time between two queue checks of a waiter, before jitter

	scope        *scope.Scope     // of the client; nil without one
	client       *clientv3.Client // client of the watcher
	detachClient func() bool      // detaches the locker from the client's context
	ctx          context.Context  //nolint:containedctx // of the locker, for what callers share
	cancel       context.CancelCauseFunc
	lastNonce    atomic.Uint64
	counters     *counters   // not part of the locker, so that they outlive it
	tracked      *scope.Part // its metrics

	mu          sync.Mutex
	closed      bool
	calls       sync.WaitGroup // calls in progress
	running     sync.WaitGroup // functions of Do and Run in progress
	background  sync.WaitGroup // background work
	queues      map[string]*queue
	ownKeys     map[string]*ownKey // by key: those that may exist in etcd
	sessions    map[*lease.Session]*sessionRef
	keysRemoved bool // Close has deleted the keys of waiters

	unconfirmed    []*hold // holds that must still read their keys
	confirmWorkers int     // goroutines that read them

	closeOnce sync.Once
	drained   chan struct{} // closed when Close no longer waits for functions
	closeErr  error
}

// The client closes the sessions of the locks after that.
var _ = closing.Provide(func(locker any) <-chan struct{} {
	return locker.(*Locker).drained //nolint:forcetypeassert // only a *Locker is passed
})

// New returns a locker that uses the parts of c. It sends nothing.
//
// If arguments are invalid, the error matches [ErrInvalid] and lists everything that is wrong with
// them. If a part of c is invalid itself, as after Namespace with an invalid dir, every call of the
// locker returns the error of that part.
func New(c Client, o ...Option) (*Locker, error) {
	s, err := newOptions(o)
	l := &Locker{options: s, counters: &counters{}, drained: make(chan struct{}), watchThreshold: watchThreshold, checkInterval: checkInterval}
	if err := errors.Join(err, l.setParts(c)); err != nil {
		return nil, opError("new", "", err)
	}
	l.scope = scope.Of(l.store)
	l.logger = l.scope.Logger(l.logger)
	if l.err = l.initParts(); l.err != nil {
		l.closed = true
		return l, nil //nolint:nilerr // each call returns it
	}
	l.id = strconv.FormatUint(rand.Uint64(), 36)
	l.queues, l.ownKeys, l.sessions = map[string]*queue{}, map[string]*ownKey{}, map[*lease.Session]*sessionRef{}
	if l.ttlSet {
		l.sessionOptions = []lease.SessionOption{lease.WithTTL(l.ttl)}
	}
	//nolint:forbidigo // no caller's metadata or deadline may reach what callers share
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	// The client's context must not keep the locker reachable: etcdkit drops lockers that are
	// unused.
	cancel := l.cancel
	l.detachClient = context.AfterFunc(l.client.Ctx(), func() { cancel(errs.ClosedError("client")) })
	runtime.AddCleanup(l, func(detach func() bool) { detach() }, l.detachClient)
	l.tracked = l.track()
	runtime.AddCleanup(l, (*scope.Part).Close, l.tracked)
	return l, nil
}

// setParts sets the parts of the locker from c.
func (l *Locker) setParts(c Client) error {
	if c == nil || reflect.ValueOf(c).Kind() == reflect.Pointer && reflect.ValueOf(c).IsNil() {
		return errs.Invalidf("no client")
	}
	l.store, l.watcher, l.leases = c.KV(), c.Watcher(), c.Leases()
	if l.store == nil || l.watcher == nil || l.leases == nil {
		return errs.Invalidf("the client lacks a part")
	}
	return nil
}

// initParts sets what the locker uses of its parts. It returns the error of an invalid part.
func (l *Locker) initParts() error {
	sender, err := retry.SenderOf(l.store)
	if err != nil {
		return err
	}
	l.sender, l.namespace = sender, l.store.Dir()
	cli, own := keywatch.ClientOf(l.watcher)
	if cli == nil {
		return errs.Invalidf("the watcher has no client")
	}
	l.client, l.keyWatcher = cli, keywatch.New(cli, own)
	if l.sweeper = sweep.Of(l.leases); l.sweeper == nil {
		return errs.Invalidf("the lease manager is invalid")
	}
	return nil
}

// dirs returns the prefixes of locks and elections.
func (l *Locker) dirs() (locks, elections string) {
	if l.dirSet {
		return l.namespace + l.dir, l.namespace + l.dir
	}
	return l.namespace + lockDir, l.namespace + electionDir
}

// startCall starts a call. The returned context also ends with the locker. The caller must call
// done when the call is over. Close waits for that.
func (l *Locker) startCall(ctx context.Context) (bound context.Context, done func(), err error) {
	if l.err != nil {
		return nil, nil, l.err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, errs.ClosedError("locker")
	}
	if l.ctx.Err() != nil {
		return nil, nil, context.Cause(l.ctx)
	}
	bound, cancel := context.WithCancelCause(ctx)
	l.calls.Add(1)
	detach := context.AfterFunc(l.ctx, func() { cancel(context.Cause(l.ctx)) })
	return bound, func() {
		detach()
		cancel(nil)
		l.calls.Done()
	}, nil
}

// startFunc registers a function that is about to run under a lock. Close waits for it. The caller
// must call done when the function has returned and its lock is released.
func (l *Locker) startFunc() (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errs.ClosedError("locker")
	}
	l.running.Add(1)
	return l.running.Done, nil
}

// goBackground runs f in the background, and Close waits for it. After Close, goBackground does not
// run f and reports false.
func (l *Locker) goBackground(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.background.Go(f)
	return true
}

// Close ends all waits and holds with a cause that matches [ErrClosed]. It waits for the functions
// of Do and Run to return, for at most 5 s, and only then removes the keys, within 5 s. It waits
// for the background work. It does its work once and returns the same result every time. An error
// means that keys are left to be deleted in the background or to expire with their leases, or that
// a function still runs. If the client is closed first, the same happens, except that nothing waits
// for functions.
//
// A function of Do or Run must not call Close, because it would wait for itself.
func (l *Locker) Close() error {
	l.closeOnce.Do(func() {
		if l.err != nil {
			close(l.drained)
			return
		}
		l.closeErr = l.close()
	})
	return l.closeErr
}

func (l *Locker) close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	cause := errs.ClosedError("locker")
	l.cancel(cause)
	l.calls.Wait()
	l.mu.Lock()
	ownKeys := slices.Collect(maps.Values(l.ownKeys))
	l.mu.Unlock()
	for _, k := range ownKeys {
		k.markLost(cause)
	}
	funcsErr := l.awaitFuncs()
	close(l.drained)
	l.background.Wait()
	defer l.tracked.Close()
	l.keyWatcher.Close()
	l.detachClient()

	if err := errors.Join(funcsErr, l.removeKeys()); err != nil {
		return opError("close", "", err)
	}
	return nil
}

// removeKeys deletes the keys of all waiters. A key that cannot be deleted now, or that may be
// created late, is left to the sweeper.
func (l *Locker) removeKeys() error {
	l.mu.Lock()
	ownKeys := slices.Collect(maps.Values(l.ownKeys))
	l.keysRemoved = true
	l.mu.Unlock()
	keys := make([]kv.Op, 0, len(ownKeys))
	for _, k := range ownKeys {
		keys = append(keys, kv.OpDelete(k.key[len(l.namespace):]))
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(l.ctx), closeTimeout-inFlightTimeout)
	defer stop()
	_, err := l.store.Batch(ctx, keys...)
	if err != nil {
		err = fmt.Errorf("%d keys are left to be deleted in the background, or to end with their leases: %w", len(keys), err)
	}
	for _, k := range ownKeys {
		if err != nil || k.unresolved > 0 {
			k.addToSweeper()
		}
		k.unregister()
	}
	return err
}

// awaitFuncs waits for the functions that run under a lock, for at most 5 s. Their contexts have
// ended.
func (l *Locker) awaitFuncs() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.running.Wait()
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("a function still runs %v after its context ended", closeTimeout)
	}
}
