// Package integration holds the suites that need more than one etcd process beside the tests can give:
// clusters inside the test process, whose members are partitioned, stopped and restarted by etcd's own test
// framework, and histories that are checked for linearizability.
//
// It is a module of its own, so that neither the etcd server nor its test framework ever becomes a requirement of
// the library. The framework's clocks run ten times as fast as etcd's defaults; what depends on real timing is
// tested with the processes of [github.com/etcdkit/etcdkit/internal/etcdtest].
package integration
