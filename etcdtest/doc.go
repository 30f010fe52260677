// Package etcdtest gives tests a real etcd, without one being installed, and faults to test with.
//
//	func TestMain(m *testing.M) { etcdtest.Main(m) }
//
//	func TestGreeting(t *testing.T) {
//		t.Parallel()
//		client := etcdtest.Open(t)
//		_, err := client.KV().Put(t.Context(), "greeting", []byte("hello"))
//		...
//	}
//
// [Open] returns a client of a server that all tests of the package share. Each client has a
// namespace of its own, which is emptied when the test ends. Two clients of one namespace, as two
// replicas have them, come from one [Config].
//
// # Faults
//
// [Start] and [StartCluster] start servers for one test. A [Server] can be paused, killed,
// restarted, emptied and compacted; it counts the requests that it receives, and ends a lease on
// demand. A [Proxy] is a network that loses connections or bytes, is slow, or refuses connections:
//
//	server := etcdtest.Start(t)
//	network := server.Proxy()
//	client := etcdtest.OpenConfig(t, network.Config())
//	network.Blackhole()
//
// # Which server
//
// The server is the first of these that is there:
//
//   - $ETCDKIT_TEST_ENDPOINTS, a comma-separated list: a running etcd that tests may write to and
//     delete from. It is the shared server only: Start and StartCluster use the next that is there.
//   - $ETCDKIT_TEST_ETCD, the path of an etcd binary.
//   - etcd in the test binary, if the package github.com/etcdkit/etcdkit/etcdtest/embedded is
//     imported. It is a module of its own.
//   - etcd on the PATH, 3.5.13 or later.
//   - etcd 3.7, which the go command builds once in the user's cache directory. That takes a minute,
//     and access to etcd's modules. It changes no go.mod.
//
// ETCD_ENDPOINTS is never read: it may name production.
//
// # Lifetime
//
// A server ends with the test that started it, and the shared server with [Main]. If the test
// process dies, its servers die with it: on Linux they are killed by the system; elsewhere an etcd
// that is embedded or built ends by itself, and one from the PATH stays. Data that a dead process
// has left is removed when the next one starts a server.
//
// Each test process has its servers, ports and directories to itself, so packages can be tested in
// parallel.
//
// # What is real
//
// Servers are processes with etcd's default timing: leases of less than 2 s become 2 s, and a
// leader that hangs is replaced after one to two seconds. Only fsync is off, and on Linux the data
// lies in memory if there is room. A killed server finds its data again; a power cut is not
// simulated.
//
// Functions with a [testing.TB] end the test if they fail, so they must be called from the
// goroutine of the test.
//
// docs/testing-your-code.md in the repository shows more: unit tests without etcd, whole programs,
// clusters, and CI.
package etcdtest
