// Package etcdtest gives tests a real etcd: one shared server process for each test binary, private
// servers and clusters that can be paused, killed, wiped and restarted, a faulty network in front
// of them, certificates, accounts and a counter of the RPCs that a client makes.
//
//	func TestPut(t *testing.T) {
//		t.Parallel()
//		cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
//		_, err := cli.Put(t.Context(), dir+"key", "value")
//		require.NoError(t, err)
//	}
//
// Package [github.com/etcdkit/etcdkit/etcdtest] is this one for users of the library. It says which
// server is used, how long it lives, and what is real. Tests of packages that it imports use this
// one where they need a plain client or more control. Theirs is
//
//	func TestMain(m *testing.M) { testmain.Run(m) }
//
// of package testmain, which also looks for goroutines that are left. tools/servers.sh builds older
// servers for $ETCDKIT_TEST_ETCD.
//
// # Servers
//
// A server is stopped by [Stop] or by the cleanup of the test that started it, and dies with a test
// process that is killed. No port is fixed. The data lies in memory where the system has room for
// that. A request is given up after 7 s, and passwords are hashed cheaply.
//
// Helpers that take a [testing.TB] end the test when they cannot do their work, so they may be
// called from the test's goroutine and from goroutines that a test can do without once it has
// failed.
package etcdtest
