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
// namespace of its own, which is emptied when the test ends. Clients that share one come from one
// [Config].
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
//     delete from. It is the shared server only: Start and StartCluster use the next one.
//   - $ETCDKIT_TEST_ETCD, the path of an etcd binary.
//   - etcd in the test binary, if github.com/etcdkit/etcdkit/etcdtest/embedded, a module of its
//     own, is imported.
//   - etcd on the PATH, 3.5.13 or later.
//   - etcd 3.7, which the go command builds once in the user's cache directory, in about a minute.
//
// ETCD_ENDPOINTS is never read: it may name production.
//
// # Lifetime
//
// A server ends with the test that started it, and the shared server with [Main]. If the test
// process dies, its servers die with it; only an etcd binary of your own stays, on systems other
// than Linux. Data that a dead process has left is removed when the next one starts a server.
// Packages can be tested in parallel.
//
// # What is real
//
// Servers are processes with etcd's default timing: leases of less than 2 s become 2 s, and a
// leader that hangs is replaced after one to two seconds. Only fsync is off: a killed server finds
// its data again, but a power cut is not simulated.
//
// Functions with a [testing.TB] end the test if they fail, so they must be called from the
// goroutine of the test.
//
// docs/testing-your-code.md shows more: unit tests without etcd, whole programs, clusters, and CI.
package etcdtest
