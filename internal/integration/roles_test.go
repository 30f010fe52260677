package integration_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

const (
	securityDoc   = "../../docs/security.md"
	rolesPassword = "a password of a test"
)

// row is one permission of a role, as docs/security.md lists it.
type row struct{ role, access, key, end string }

var accesses = map[string]clientv3.PermissionType{
	"read":      clientv3.PermissionType(clientv3.PermRead),
	"write":     clientv3.PermissionType(clientv3.PermWrite),
	"readwrite": clientv3.PermissionType(clientv3.PermReadWrite),
}

func (r row) grant(t *testing.T) etcdtest.Grant {
	t.Helper()
	access, ok := accesses[r.access]
	require.True(t, ok, "%q is no access", r.access)
	return etcdtest.Grant{Access: access, Key: r.key, End: r.end}
}

// tableOf reads the rows of the table that has a header.
func tableOf(t *testing.T, doc, header string) (rows [][]string) {
	t.Helper()
	_, table, found := strings.Cut(doc, header+"\n")
	require.True(t, found, header)
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < strings.Count(header, "|")-1 {
			break
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !strings.HasPrefix(cells[0], "---") {
			rows = append(rows, cells)
		}
	}
	require.NotEmpty(t, rows)
	return rows
}

// rowsOf reads the table of roles. A key that ends in "/" stands for all keys below it.
func rowsOf(t *testing.T, doc string) (rows []row) {
	t.Helper()
	for _, cells := range tableOf(t, doc, "| role | access | key | for |") {
		for i := range cells {
			cells[i] = strings.Trim(cells[i], "`")
		}
		r := row{role: cells[0], access: cells[1], key: cells[2]}
		if strings.HasSuffix(r.key, "/") {
			r.end = clientv3.GetPrefixRangeEnd(r.key)
		}
		rows = append(rows, r)
	}
	return rows
}

// commandsOf reads the commands that make roles.
func commandsOf(t *testing.T, doc string) (added []string, rows []row) {
	t.Helper()
	for line := range strings.Lines(doc) {
		words := strings.Fields(line)
		switch {
		case len(words) == 4 && strings.HasPrefix(line, "etcdctl role add "):
			added = append(added, words[3])
		case len(words) >= 6 && strings.HasPrefix(line, "etcdctl role grant-permission "):
			r := row{role: words[3], access: words[4], key: words[5]}
			if len(words) == 7 {
				require.Equal(t, "--prefix", words[6])
				r.end = clientv3.GetPrefixRangeEnd(r.key)
			}
			rows = append(rows, r)
		}
	}
	return added, rows
}

func byRole(rows []row) map[string][]row {
	out := map[string][]row{}
	for _, r := range rows {
		out[r.role] = append(out[r.role], r)
	}
	return out
}

func TestRoles_CommandsMatchTheTable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(securityDoc)
	require.NoError(t, err)
	roles := byRole(rowsOf(t, string(doc)))
	assert.ElementsMatch(t, slices.Collect(maps.Keys(roles)), slices.Collect(maps.Keys(uses())), "each role has its use")
	added, commands := commandsOf(t, string(doc))
	require.NotEmpty(t, added)
	assert.ElementsMatch(t, added, slices.Collect(maps.Keys(byRole(commands))))
	for role, shown := range byRole(commands) {
		assert.Equal(t, roles[role], shown, "the commands for %s", role)
	}
}

// account is a user with a role of its own, to run a role's use with.
type account struct {
	user, role string
	rows       []row
	enough     bool
}

// accountsOf are, for each role, a user who has it, and one for each way in which it could be less:
// without a row, or with half of one.
func accountsOf(roles map[string][]row) (out []account) {
	for role, rows := range roles {
		out = append(out, account{user: role, role: role, rows: rows, enough: true})
		for i, r := range rows {
			without := slices.Delete(slices.Clone(rows), i, i+1)
			where := role + " without " + r.access + " " + r.key
			out = append(out, account{user: where, role: role, rows: without})
			if r.access != "readwrite" {
				continue
			}
			for _, half := range []string{"read", "write"} {
				less := slices.Clone(rows)
				less[i].access = half
				out = append(out, account{user: role + " with " + half + " alone for " + r.key, role: role, rows: less})
			}
		}
	}
	return out
}

func TestRoles_AreEnoughAndNoMore(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(securityDoc)
	require.NoError(t, err)
	accounts := append(accountsOf(byRole(rowsOf(t, string(doc)))), account{user: "nobody"})
	users := make([]etcdtest.User, 0, len(accounts))
	for _, a := range accounts {
		u := etcdtest.User{Name: a.user, Password: rolesPassword}
		for _, r := range a.rows {
			u.Grants = append(u.Grants, r.grant(t))
		}
		users = append(users, u)
	}
	s := etcdtest.Start(t)
	etcdtest.EnableAuth(t, s, users...)
	root, err := etcdkit.Open(t.Context(), asUser(s, "root", etcdtest.RootPassword))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, root.Close()) })
	for _, a := range accounts {
		if a.user == "nobody" {
			continue
		}
		t.Run(a.user, func(t *testing.T) {
			t.Parallel()
			err := useOnce(t, s, a.user, root, a.role)
			if a.enough {
				assert.NoError(t, err)
				return
			}
			assert.ErrorIs(t, err, etcdkit.ErrPermission)
		})
	}
	for role := range uses() {
		t.Run("nobody as "+role, func(t *testing.T) {
			t.Parallel()
			assert.ErrorIs(t, useOnce(t, s, "nobody", root, role), etcdkit.ErrPermission)
		})
	}
	t.Run("nobody may look at the cluster and have leases", func(t *testing.T) {
		t.Parallel()
		c, err := etcdkit.Open(t.Context(), asUser(s, "nobody", rolesPassword))
		require.NoError(t, err)
		h, err := c.Health(t.Context())
		require.NoError(t, err)
		assert.True(t, h.Quorum)
		members, err := c.Members(t.Context())
		require.NoError(t, err)
		assert.Len(t, members, 1)
		assert.Contains(t, c.Diagnose(t.Context()).String(), "cannot be counted")
		l, err := c.Leases().Grant(t.Context(), time.Minute)
		require.NoError(t, err)
		_, err = c.Leases().KeepAliveOnce(t.Context(), l.ID)
		require.NoError(t, err)
		require.NoError(t, c.Leases().Revoke(t.Context(), l.ID))
		require.NoError(t, c.Close())
	})
}

func asUser(s *etcdtest.Server, user, password string) etcdkit.Config {
	return etcdkit.Config{Endpoints: s.Endpoints(), Username: user, Password: etcdkit.NewSecret(password), Namespace: "app"}
}

// useOnce does what a role is for, as a user, with names that nobody else uses where the role
// leaves that open.
func useOnce(t *testing.T, s *etcdtest.Server, user string, root *etcdkit.Client, role string) error {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	c, err := etcdkit.Open(ctx, asUser(s, user, rolesPassword))
	require.NoError(t, err)
	u := &use{Client: c, root: root, name: "n" + clean(t.Name())}
	err = uses()[role](ctx, u)
	for _, one := range append(u.owned, c) {
		if closed := one.Close(); err == nil {
			err = closed
		}
	}
	return err
}

// clean makes a name of a test's.
func clean(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

// use is a client of a user, somebody who may do everything, and a name for the use alone.
type use struct {
	*etcdkit.Client

	root  *etcdkit.Client
	name  string
	owned []io.Closer // by the use
}

// own has c closed at the end of the use.
func (u *use) own(c io.Closer) { u.owned = append(u.owned, c) }

// orders is the store of a dir that this use has for itself.
func (u *use) orders() *kv.Store { return u.KV().Namespace("orders/" + u.name) }

// fed puts a key there, as root.
func (u *use) fed(ctx context.Context, dir string) error {
	_, err := u.root.KV().Put(ctx, dir+u.name, []byte("1"))
	return err
}

// uses are what roles are for.
func uses() map[string]func(ctx context.Context, u *use) error {
	return map[string]func(ctx context.Context, u *use) error{
		"store-reader": useStoreReader, "store-feeder": useStoreFeeder, "store-writer": useStoreWriter, "once-feeder": useOnceFeeder,
		"watcher": useWatcher, "consumer": useConsumer, "key-keeper": useKeyKeeper, "session-guarded": useSessionGuarded,
		"locker": useLocker, "one-lock": useOneLock, "fenced-writer": useFencedWriter, "candidate": useCandidate, "observer": useObserver,
		"cache-reader": useCacheReader, "cache-writer": useCacheWriter, "config-reader": useConfigReader, "config-writer": useConfigWriter,
		"instance": useInstance, "one-instance": useOneInstance, "caller": useCaller, "one-caller": useOneCaller,
		"naming-instance": useNamingInstance,
	}
}

// steps calls functions until one fails.
func steps(all ...func() error) error {
	for _, f := range all {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// only drops a result.
func only[T any](_ T, err error) error { return err }

// unless makes an expected condition a success.
func unless(expected, err error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return errors.Join(errors.New("it was not refused"), err)
}

func useStoreReader(ctx context.Context, u *use) error {
	if err := u.fed(ctx, "orders/"); err != nil {
		return err
	}
	s := u.KV().Namespace("orders")
	e, err := s.Get(ctx, u.name)
	if err != nil {
		return err
	}
	typed := kv.NewTyped(u.KV(), "orders", kv.String())
	return steps(
		func() error { return only(s.GetStale(ctx, u.name)) },
		func() error { return only(s.GetAsOf(ctx, u.name, e.ModRevision)) },
		func() error { return only(s.Exists(ctx, u.name)) },
		func() error { return only(s.Count(ctx, "")) },
		func() error { _, _, err := s.GetMany(ctx, u.name, "none"); return err },
		func() error {
			return only(s.Transact(ctx, func(_ context.Context, t *kv.Tx) error { return only(t.Get(u.name)) }))
		},
		func() error { return only(s.Map(ctx, "")) },
		func() error { return only(s.Map(ctx, "", kv.WithReverse())) },
		func() error { return only(s.Page(ctx, "", 2, "")) },
		func() error { return only(typed.Get(ctx, u.name)) },
		func() error {
			for _, err := range s.Keys(ctx, "") {
				if err != nil {
					return err
				}
			}
			return nil
		},
		func() error {
			for _, err := range typed.List(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	)
}

func useStoreFeeder(ctx context.Context, u *use) error {
	s := u.orders()
	l, err := u.Leases().Grant(ctx, time.Minute)
	if err != nil {
		return err
	}
	return steps(
		func() error { return only(s.Put(ctx, "a", []byte("1"))) },
		func() error { return only(s.Put(ctx, "b", []byte("1"), kv.WithTTL(time.Minute))) },
		func() error { return only(s.Put(ctx, "c", []byte("1"), kv.WithLease(l.ID))) },
		func() error { return only(s.Batch(ctx, kv.OpPut("d", nil), kv.OpDelete("a"))) },
		func() error { return only(s.BatchEach(ctx, []kv.Op{kv.OpPut("d", nil), kv.OpDelete("a")})) },
		func() error { return only(s.Delete(ctx, "b")) },
		func() error { _, _, err := s.DeletePrefix(ctx, ""); return err },
		func() error { return u.Leases().Revoke(ctx, l.ID) },
	)
}

func useStoreWriter(ctx context.Context, u *use) error {
	s := u.orders()
	rev, err := s.Create(ctx, "a", []byte("1"))
	if err != nil {
		return err
	}
	next := func() (err error) { rev, err = s.Replace(ctx, "a", []byte("2"), rev); return err }
	return steps(
		next,
		func() error { return unless(kv.ErrExists, only(s.Create(ctx, "a", nil))) },
		func() error { return only(s.CompareAndSwap(ctx, "a", []byte("2"), []byte("3"))) },
		func() error {
			return only(s.Update(ctx, "a", func(e kv.Entry[[]byte]) ([]byte, error) { rev = e.ModRevision; return []byte("4"), nil }))
		},
		func() error { return only(s.CompareAndDelete(ctx, "a", []byte("4"))) },
		func() (err error) { rev, err = s.Put(ctx, "a", []byte("5")); return err },
		func() error { return only(s.DeleteAt(ctx, "a", rev)) },
		func() error {
			cmp := clientv3.Compare(clientv3.CreateRevision("a"), "=", 0)
			return only(s.Txn(ctx).If(cmp).Then(clientv3.OpPut("a", "6"), clientv3.OpGet("a")).Commit())
		},
		func() error {
			return only(s.Transact(ctx, func(_ context.Context, t *kv.Tx) error {
				if err := only(t.Get("a")); err != nil {
					return err
				}
				return errors.Join(t.Put("b", nil), t.Delete("a"))
			}))
		},
		func() error { return only(s.Touch(ctx, "b", time.Minute)) },
		func() error { return useStoreFeeder(ctx, u) },
		func() error { return useStoreReader(ctx, u) },
	)
}

func useOnceFeeder(ctx context.Context, u *use) error {
	s := u.orders()
	return steps(
		func() error { return only(s.Put(ctx, "a", []byte("1"), kv.WithOnce())) },
		func() error { return only(s.Put(ctx, "a", []byte("2"), kv.WithOnce())) },
		func() error { return only(s.Delete(ctx, "a", kv.WithOnce())) },
	)
}

// firstOf waits for the first batch with an event.
func firstOf(ctx context.Context, u *use, o ...watch.Option) error {
	for b, err := range u.Watcher().Watch(ctx, watch.Prefix("orders/"), o...) {
		if err != nil || len(b.Events) > 0 {
			return err
		}
	}
	return nil
}

func useWatcher(ctx context.Context, u *use) error {
	rev, err := u.root.KV().Put(ctx, "orders/"+u.name, []byte("1"))
	if err != nil {
		return err
	}
	return steps(
		func() error { return firstOf(ctx, u, watch.WithSnapshot()) },
		func() error { return firstOf(ctx, u, watch.WithAfter(rev-1)) },
		func() error { return firstOf(ctx, u, watch.WithAfter(rev-1), watch.WithSnapshot()) },
		func() error { return firstOf(ctx, u, watch.WithAfter(rev-1), watch.WithPrevValue()) },
		func() error {
			sub, err := u.Watcher().Subscribe(watch.Prefix("orders/"), func(context.Context, watch.Batch) error { return nil })
			if err != nil {
				return err
			}
			select {
			case <-sub.Ready():
				return sub.Close()
			case <-sub.Done():
				return sub.Err()
			}
		},
	)
}

func useConsumer(ctx context.Context, u *use) error {
	enough := errors.New("enough")
	for range 2 { // from the current state, then after what was saved
		if err := u.fed(ctx, "orders/"); err != nil {
			return err
		}
		n := 0
		err := u.Watcher().Consume(ctx, watch.Prefix("orders/"), kv.NewCheckpoint(u.KV(), "checkpoints/billing"),
			func(ctx context.Context, b watch.Batch) error {
				if len(b.Events) > 0 && !b.More {
					n++
				}
				if n > 1 {
					return enough // the first ones are saved
				}
				return u.fed(ctx, "orders/")
			}, watch.WithSnapshot())
		if !errors.Is(err, enough) {
			return err
		}
	}
	return nil
}

func useKeyKeeper(ctx context.Context, u *use) error {
	k, err := u.Leases().OpenKey(ctx, "alive/node-1", []byte("1"))
	if err != nil {
		return err
	}
	return steps(
		func() error { return k.Update(ctx, []byte("2")) },
		func() error { _, err := u.root.KV().Delete(ctx, "alive/node-1"); return err },
		func() error { // it is put back
			for _, err := range u.root.Watcher().Watch(ctx, watch.Key("alive/node-1"), watch.WithSnapshot(), watch.WithPutsOnly()) {
				if err != nil {
					return err
				}
				if there, err := u.root.KV().Exists(ctx, "alive/node-1"); there || err != nil {
					return err
				}
			}
			return nil
		},
		k.Close,
	)
}

func useSessionGuarded(ctx context.Context, u *use) error {
	session, err := u.Leases().OpenSession(ctx, lease.WithTTL(time.Minute))
	if err != nil {
		return err
	}
	return steps(
		func() error { return only(u.orders().Put(ctx, "a", []byte("1"), kv.WithGuard(session))) },
		session.Close,
		func() error {
			return unless(kv.ErrGuard, only(u.orders().Put(ctx, "a", []byte("2"), kv.WithGuard(session))))
		},
	)
}

// useLocks holds everything that there is, below one name.
func useLocks(ctx context.Context, u *use, name string) error {
	l := u.Locks()
	nothing := func(context.Context, *lock.Held) error { return nil }
	shared := func(context.Context, *lock.Permit) error { return nil }
	return steps(
		func() error {
			return l.Mutex(name).Do(ctx, func(ctx context.Context, h *lock.Held) error {
				return errors.Join(h.Verify(ctx), unless(lock.ErrLocked, l.Mutex(name).TryDo(ctx, nothing)))
			})
		},
		func() error { return l.Mutex(name).TryDo(ctx, nothing) },
		func() error { return l.RWMutex(name).RDo(ctx, shared) },
		func() error { return l.RWMutex(name).Do(ctx, nothing) },
		func() error { return l.Semaphore(name, 2).Do(ctx, shared) },
		func() error { return l.Semaphore(name, 2).TryDo(ctx, shared) },
		func() error { return l.Barrier(name, 1).Wait(ctx) },
		func() error { return l.DoubleBarrier(name, 1).Enter(ctx) },
		func() error {
			h, err := l.Multi(l.Mutex(name), l.Mutex(name+"/more")).Lock(ctx)
			if err != nil {
				return err
			}
			return h.Release(ctx)
		},
		func() error { return contended(ctx, l.Mutex(name)) },
	)
}

// contended has somebody wait for a mutex, with a watch.
func contended(ctx context.Context, m *lock.Mutex) error {
	h, err := m.Lock(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- m.Do(ctx, func(context.Context, *lock.Held) error { return nil }) }()
	watched := time.NewTimer(300 * time.Millisecond) // a hold is watched after a while
	defer watched.Stop()
	select {
	case err := <-done:
		return errors.Join(errors.New("two hold"), err)
	case <-watched.C:
	}
	return errors.Join(h.Release(ctx), <-done)
}

func useLocker(ctx context.Context, u *use) error  { return useLocks(ctx, u, u.name) }
func useOneLock(ctx context.Context, u *use) error { return useLocks(ctx, u, "nightly") }

func useFencedWriter(ctx context.Context, u *use) error {
	return u.Locks().Mutex("nightly").Do(ctx, func(ctx context.Context, h *lock.Held) error {
		return only(u.orders().Put(ctx, "a", []byte("1"), kv.WithGuard(h)))
	})
}

func useCandidate(ctx context.Context, u *use) error {
	e := u.Locks().Election(u.name)
	return e.Run(ctx, "a", func(ctx context.Context, l *lock.Leadership) error {
		if err := l.Proclaim(ctx, "b"); err != nil {
			return err
		}
		return useElection(ctx, e)
	})
}

func useObserver(ctx context.Context, u *use) error {
	e := u.Locks().Election(u.name)
	if err := unless(lock.ErrNoLeader, only(e.Leader(ctx))); err != nil {
		return err
	}
	return useElection(ctx, e)
}

// useElection looks at who leads.
func useElection(ctx context.Context, e *lock.Election) error {
	for _, err := range e.Observe(ctx) {
		return err
	}
	_, err := e.Leader(ctx)
	return unless(lock.ErrNoLeader, err)
}

func useCacheReader(ctx context.Context, u *use) error {
	if err := u.fed(ctx, "users/"); err != nil {
		return err
	}
	c, err := cache.Open(ctx, u, "users", kv.String())
	if err != nil {
		return err
	}
	u.own(c)
	r, err := cache.OpenReplica(ctx, u, "users", kv.String())
	if err != nil {
		return err
	}
	u.own(r)
	return steps(
		func() error { return only(c.Get(ctx, u.name)) },
		func() error { return only(c.GetLinearizable(ctx, u.name)) },
		func() error { return only(c.GetAtLeast(ctx, u.name, 1)) },
		func() error { return only(r.Get(ctx, u.name)) },
		func() error { return only(r.GetLinearizable(ctx, u.name)) },
		func() error { return r.WaitRevision(ctx, r.Revision()) },
	)
}

func useCacheWriter(ctx context.Context, u *use) error {
	r, err := cache.OpenReplica(ctx, u, "users", kv.String())
	if err != nil {
		return err
	}
	u.own(r)
	return steps(
		func() error { return only(r.Store().Put(ctx, u.name, "1")) },
		func() error {
			return only(r.Store().Update(ctx, u.name, func(v *string) error { *v = "2"; return nil }))
		},
		func() error { return only(r.Store().Delete(ctx, u.name)) },
		func() error { return only(r.Store().Delete(ctx, u.name)) },
		func() error { return useCacheReader(ctx, u) },
	)
}

func useConfigReader(ctx context.Context, u *use) error {
	if err := u.fed(ctx, "config/"); err != nil {
		return err
	}
	src, err := config.Open(ctx, u, "config")
	if err != nil {
		return err
	}
	u.own(src)
	return steps(
		func() error { return only(config.Bind[int](src, u.name)) },
		func() error { return only(config.Get[int](src, u.name)) },
		func() error {
			for _, err := range src.History(ctx, u.name) {
				return err
			}
			return nil
		},
	)
}

func useConfigWriter(ctx context.Context, u *use) error {
	src, err := config.Open(ctx, u, "config")
	if err != nil {
		return err
	}
	u.own(src)
	var rev int64
	type limits struct {
		Rate int `config:"rate" default:"1"`
	}
	return steps(
		func() (err error) { rev, err = config.Set(ctx, src, u.name, 1); return err },
		func() error { return only(config.Set(ctx, src, u.name, 2)) },
		func() error { return only(src.Rollback(ctx, u.name, rev)) },
		func() error { return only(src.Delete(ctx, u.name)) },
		func() error { return only(src.Rollback(ctx, u.name, rev)) },
		func() error {
			v, err := config.BindDir[limits](src, u.name+"-dir")
			if err != nil {
				return err
			}
			return only(v.Set(ctx, limits{Rate: 2}))
		},
		func() error { return useConfigReader(ctx, u) },
	)
}

// registry is one that is closed at the end of the use.
func (u *use) registry(o ...discovery.Option) *discovery.Registry {
	r := etcdtest.Must(discovery.New(u, o...))
	u.own(r)
	return r
}

// useRegistration is the life of an instance.
func useRegistration(ctx context.Context, r *discovery.Registry, id string) error {
	i := discovery.Instance{Service: "api", ID: id, Host: "127.0.0.1", Port: 80}
	reg, err := r.Register(ctx, i, discovery.WithDrainDelay(time.Millisecond))
	if err != nil {
		return err
	}
	i.Port = 81
	return steps(
		func() error { return reg.Update(ctx, i) },
		func() error { return reg.Drain(ctx) },
		reg.Close,
	)
}

func useInstance(ctx context.Context, u *use) error {
	return useRegistration(ctx, u.registry(), u.name)
}

func useOneInstance(ctx context.Context, u *use) error {
	r := u.registry()
	return steps(
		func() error { return useRegistration(ctx, r, "api-1") },
		func() error { // a predecessor that has crashed is waited out
			l, err := u.Leases().Grant(ctx, 2*time.Second)
			if err != nil {
				return err
			}
			return only(u.KV().Put(ctx, "services/api/instances/api-1", []byte(`{"host":"127.0.0.1","port":80}`), kv.WithLease(l.ID)))
		},
		func() error { return useRegistration(ctx, r, "api-1") },
	)
}

func useOneCaller(ctx context.Context, u *use) error {
	svc, err := u.registry().OpenService(ctx, "api")
	if err != nil {
		return err
	}
	if _, err = svc.Picker(nil).Pick(); errors.Is(err, discovery.ErrNoInstance) {
		return nil
	}
	return err
}

func useCaller(ctx context.Context, u *use) error {
	r := u.registry()
	if err := only(r.Services(ctx)); err != nil {
		return err
	}
	heard := make(chan struct{}, 1)
	defer r.FollowServices(func([]string) {
		select {
		case heard <- struct{}{}:
		default:
		}
	})()
	select {
	case <-heard:
	case <-ctx.Done():
		return ctx.Err()
	}
	return useOneCaller(ctx, u)
}

func useNamingInstance(ctx context.Context, u *use) error {
	r := u.registry(discovery.WithGRPCNaming())
	if err := only(r.OpenService(ctx, "api")); err != nil {
		return err
	}
	return useRegistration(ctx, r, u.name)
}
