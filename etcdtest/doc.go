// Package etcdtest gives tests a real etcd, which need not be installed, and makes it fail.
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
// namespace of its own, which is emptied when the test ends. Clients of one [Config] share a
// namespace.
//
// # Faults
//
// [Start] and [StartCluster] start servers for one test. A [Server] can be paused, killed,
// restarted, emptied and compacted. It counts the requests that it receives, and ends a lease on
// demand. A [Proxy] is a network that breaks or refuses connections, loses bytes, or is slow:
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
// than Linux. The next run removes data that a dead process has left. Packages can be tested in
// parallel.
//
// # What is real
//
// Servers are processes with etcd's default timing: the shortest lease is 2 s, and a leader that
// hangs is replaced after one to two seconds. Only fsync is off: a killed server finds its data
// again, but a power cut is not simulated.
//
// Functions with a [testing.TB] end the test if they fail, so call them from its goroutine.
//
// [docs/testing-your-code.md] shows unit tests without etcd, whole programs, clusters, and CI.
//
// [docs/testing-your-code.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/testing-your-code.md
package etcdtest
