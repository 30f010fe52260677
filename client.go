package etcdkit

import (
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
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
// [ErrClosed]. Close takes at most about 5 s, even if etcd does not answer, and up to 5 s more if a
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
