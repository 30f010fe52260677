// Package etcdtest gives tests a real etcd: one shared server process for each
// test binary, private servers and clusters that can be paused, killed, wiped
// and restarted, a faulty network in front of them, certificates, accounts and
// a counter of the RPCs that a client makes.
//
//	func TestPut(t *testing.T) {
//		t.Parallel()
//		cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
//		_, err := cli.Put(t.Context(), dir+"key", "value")
//		require.NoError(t, err)
//	}
//
// # Which server
//
// See package [github.com/etcdkit/etcdkit/etcdtest], which is this one for users of the library.
// Tests of packages that it imports use this one where they need a plain client or more control.
// Theirs is
//
//	func TestMain(m *testing.M) { testmain.Run(m) }
//
// of package testmain, which also looks for goroutines that are left. tools/servers.sh builds older
// servers for $ETCDKIT_TEST_ETCD.
//
// ETCD_ENDPOINTS is never read: it may name production.
//
// # Lifetime
//
// A server dies with the test process, however that ends: it is stopped by [Stop] or by the cleanup
// of the test that started it, and a test process that is killed takes its servers along. No port
// is fixed and no data outlives the run: what a killed run has left on disk, a later one removes.
// The data lies in memory where the system has room for that, so servers do not wait for a disk.
//
// # What is real and what is not
//
// Servers run as processes of their own with etcd's default timing: leases of less than 2 s become
// 2 s, a leader is missed after a second, a request is given up after 7 s. Only fsync is off, and
// passwords are hashed cheaply. A killed server finds its data again; a pulled plug is not
// simulated.
//
// Helpers that take a [testing.TB] end the test when they cannot do their work, so they may be
// called from the test's goroutine and from goroutines that a test can do without once it has
// failed.
package etcdtest
