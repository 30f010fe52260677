package etcdkit

import (
	"errors"
	"runtime"
	"sync"
	"time"
	"weak"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/closing"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is a connection to etcd with the packages that work over it. [Open], [OpenLazy] and [Wrap]
// create one; a process usually needs only one. It is safe for concurrent use.
type Client struct {
	conn   *connection
	parent *Client // nil for the client that owns the connection

	store   *kv.Store
	leases  *lease.Manager
	watcher *watch.Watcher

	dir    string // relative to the configured namespace, for reports
	dirErr error  // of an invalid dir; the parts return it as well
}

// newClient returns the client for the configured namespace. Its parts send nothing until they are
// used. If newClient returns an error, it has closed conn.
func newClient(conn *connection) (*Client, error) {
	cfg, sc := conn.settings.cfg, conn.settings.scope
	read, write := time.Duration(cfg.ReadTimeout), time.Duration(cfg.WriteTimeout)
	ns := conn.settings.namespace
	watcher, watcherErr := watch.New(conn.cli, watch.WithNamespace(ns), scope.Option[watch.Option](sc))
	leaseOpts := []lease.Option{
		lease.WithNamespace(ns), lease.WithTimeouts(read, write), lease.WithRetry(cfg.Retry), lease.WithWatcher(watcher),
		scope.Option[lease.Option](sc),
	}
	if cfg.SessionTTL != 0 { // zero after Wrap, which uses lease's own default
		leaseOpts = append(leaseOpts, lease.WithSessionTTL(time.Duration(cfg.SessionTTL)))
	}
	leases, leasesErr := lease.New(conn.cli, leaseOpts...)
	store, storeErr := kv.New(conn.cli,
		kv.WithNamespace(ns), kv.WithTimeouts(read, write), kv.WithRetry(cfg.Retry), kv.WithLimits(conn.settings.limits),
		scope.Option[kv.Option](sc))
	err := errors.Join(errs.Cause(storeErr), errs.Cause(leasesErr), errs.Cause(watcherErr))
	if err == nil {
		c := &Client{conn: conn, store: store, leases: leases, watcher: watcher}
		scope.Track(sc, metrics, "", c.Stats)
		return c, nil
	}
	if leases != nil {
		err = errors.Join(err, leases.Close())
	}
	if watcher != nil {
		err = errors.Join(err, watcher.Close())
	}
	return nil, errors.Join(err, conn.close())
}

// KV returns the store of the client's namespace. Every call returns the same one.
func (c *Client) KV() *kv.Store { return c.store }

// Leases returns the manager that grants leases and keeps sessions and keys alive in the client's
// namespace. Every call returns the same one. Its shared session, which the other packages also
// use, has the TTL Config.SessionTTL and is opened on first use.
func (c *Client) Leases() *lease.Manager { return c.leases }

// Watcher returns the watcher of the client's namespace. Every call returns the same one. All
// namespaces share its streams.
func (c *Client) Watcher() *watch.Watcher { return c.watcher }

// Locks returns the locker of the client's namespace, which creates locks and elections. While one
// is referenced, every call returns the same one, for all clients of the namespace. Its locks are
// attached to the shared session of [Client.Leases].
func (c *Client) Locks() *lock.Locker {
	l := &c.conn.lockers
	l.mu.Lock()
	defer l.mu.Unlock()
	dir := c.store.Dir()
	if locker := l.byDir[dir].Value(); locker != nil && c.dirErr == nil {
		return locker
	}
	locker, err := lock.New(c)
	if err != nil {
		panic(err) // impossible: the client has all parts and the options are valid
	}
	switch {
	case c.dirErr != nil: // each of its calls returns an error, and it never holds anything
	case l.closed:
		_ = locker.Close() // it holds nothing
	default:
		if l.byDir == nil {
			l.byDir = map[string]weak.Pointer[lock.Locker]{}
		}
		l.byDir[dir] = weak.Make(locker)
		runtime.AddCleanup(locker, l.forget, dir)
	}
	return locker
}

// Namespace returns a client for dir, which is relative to the client's own namespace. It uses the
// same connection, session and watch streams, and its Close does nothing. If dir is invalid, every
// call of its parts returns [ErrInvalid].
func (c *Client) Namespace(dir string) *Client {
	below, err := keyspace.Dir(dir)
	return &Client{
		conn: c.conn, parent: c, store: c.store.Namespace(dir), leases: c.leases.Namespace(dir), watcher: c.watcher.Namespace(dir),
		dir: c.dir + below, dirErr: errors.Join(c.dirErr, err),
	}
}

// Raw returns the client/v3 client, outside the namespace. If Open or OpenLazy created the client,
// its KV and Lease repeat requests that are safe to repeat, and its Watcher reopens a watch whose
// token etcd no longer accepts; errors, deadlines and everything else are those of client/v3. After
// Wrap, Raw returns the wrapped client unchanged.
func (c *Client) Raw() *clientv3.Client { return c.conn.cli }

// SetEndpoints replaces the endpoints of the client. Connections to endpoints that are on both
// lists stay open, and an evicted endpoint stays evicted until it answers again. Use it instead of
// SetEndpoints of [Client.Raw], which ignores evictions.
//
// SetEndpoints sends nothing. It returns an error that matches [ErrInvalid], and changes nothing,
// if an endpoint is invalid or needs other TLS settings than those the client was opened with. It
// also does so after [Wrap], whose caller owns the endpoints.
func (c *Client) SetEndpoints(endpoints ...string) error {
	const op = "set endpoints"
	if c.conn.isClosed() {
		return opError(op, errs.ClosedError("client"))
	}
	if c.conn.checker == nil {
		return opError(op, errs.Invalidf("the endpoints are those of the client that was given to Wrap"))
	}
	if err := c.conn.setEndpoints(endpoints...); err != nil {
		return opError(op, err)
	}
	return nil
}

// Close releases the client's locks, removes the keys it keeps, revokes its sessions and ends its
// watches. It then stops the background work and closes the connections; calls in progress return
// [ErrClosed]. Close takes at most about 6 s, even if etcd does not answer, and up to 5 s more if a
// function that runs under a lock does not return.
//
// Close is idempotent and returns the same result every time. An error of package lease or lock
// means that leases, with the keys attached to them, were left to expire: log it, but do not treat
// it as a failure. Close of a client created by Namespace does nothing.
func (c *Client) Close() error {
	if c.parent != nil {
		return nil
	}
	c.conn.closeOnce.Do(func() {
		c.conn.closed.Store(true)
		locks := c.conn.lockers.close()
		leases := c.leases.Close()
		c.conn.closeErr = errors.Join(locks(), leases, c.watcher.Close(), c.conn.close())
	})
	return c.conn.closeErr
}

// lockers holds the lockers of a client, one per namespace, created on first use. A locker is kept
// as long as it is referenced, by a lock or by a caller of Locks.
type lockers struct {
	mu     sync.Mutex
	byDir  map[string]weak.Pointer[lock.Locker]
	closed bool
}

// forget removes the entry of an unreferenced locker, unless a new one has replaced it.
func (l *lockers) forget(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byDir[dir].Value() == nil {
		delete(l.byDir, dir)
	}
}

// releaseTimeout is how long Close releases locks one by one before it closes their sessions,
// which releases all of them. It is short, because a slow release means that etcd does not answer,
// and closing the sessions then takes time too.
const releaseTimeout = time.Second

// close waits until no function runs under a lock, for at most 5 s, and then releases all locks. If
// the release takes long, it continues in the background; rest waits for it.
func (l *lockers) close() (rest func() error) {
	l.mu.Lock()
	l.closed = true
	var wg sync.WaitGroup
	var errsMu sync.Mutex
	var closeErrs []error
	var drained []<-chan struct{}
	for _, pointer := range l.byDir {
		locker := pointer.Value()
		if locker == nil {
			continue
		}
		drained = append(drained, closing.Drained(locker))
		wg.Go(func() {
			if err := locker.Close(); err != nil {
				errsMu.Lock()
				closeErrs = append(closeErrs, err)
				errsMu.Unlock()
			}
		})
	}
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	for _, d := range drained {
		<-d // only then may others acquire the locks
	}
	timer := time.NewTimer(releaseTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	return func() error {
		<-done
		return errors.Join(closeErrs...)
	}
}
