// Package integration tests the library over clusters whose members are killed, frozen, restarted
// and cut off from one another, and checks histories for linearizability.
//
// It is a module of its own, so that neither the etcd server nor its test framework becomes a
// requirement of the library. Most suites run against processes with etcd's default timing, from
// [github.com/etcdkit/etcdkit/internal/etcdtest]. A network that is cut between members comes from
// etcd's own test framework, whose members live in the test process and whose clocks run ten times
// as fast. Holders of locks that are stopped or killed are child processes, which run this test
// binary.
//
// # What is checked
//
// Suites assert counts, orders and histories, which hold on any machine, and log the times that
// they have measured. A time is asserted only with room for a slow machine. A history is what
// clients were told. It is compared with etcd's own history, which a plain watch reads over an
// undisturbed connection. porcupine looks for an order that explains all answers; a search that
// does not end in time fails. Each model has tests that it refuses what is wrong, and a wrong way
// to retry is put through the same faults and must be caught.
//
// # Storms
//
// TestNemesis (make faults) runs for the duration ETCDKIT_FAULTS. Child processes use all packages
// at once while members, the networks between members and in front of clients, passwords,
// certificates, and the processes themselves are broken, in an order that ETCDKIT_FAULTS_SEED
// determines. Each process writes a journal of its requests and their results, on a shared clock.
// At the end, the checkers of the other suites compare the journals with etcd's history. Locks of
// client/v3 and loops that people write run beside, as a control. TestSoak, with ETCDKIT_SOAK,
// looks for what grows under these faults, and for warnings that the failure model does not
// explain. Both write docs/reliability.json and docs/reliability.md if ETCDKIT_RELIABILITY is
// "write". TestRollingUpgrade, with ETCDKIT_UPGRADE set to anything, upgrades a cluster from etcd
// 3.5 to 3.7 under load.
//
// # Foreign suites
//
// TestForeignSuites runs those of etcd's own client tests whose names match the regular expression
// ETCDKIT_FOREIGN. They come from the module cache. Each mode makes the client in another way: by
// etcdkit.Open, or with kv.Namespace or kv.Coalesce as its KV. Mode plain is client/v3 alone, as
// the control. A failure that testdata/foreign/differences.txt does not list fails the run, and so
// does a listed test that passes.
//
// # Benchmarks
//
// TestBench measures the library beside its peers if ETCDKIT_BENCH is "quick" (make bench-quick) or
// "full" (make bench). It writes docs/performance.md, docs/performance.json, docs/hand-off.svg, and
// the tables between comments in README.md and docs/compare.md. After an interruption it continues
// with the scenarios that are missing. TestCounts compares what does not depend on the machine,
// such as RPCs, events and goroutines, with testdata/counts.json, which make bench-counts writes.
//
// # Short and long
//
// By default the suites take a few minutes on two cores. With ETCDKIT_LONG set to anything they run
// at full length, with ten thousand increments and minutes of faults:
//
//	ETCDKIT_LONG=1 go test -race -timeout 60m -v ./internal/integration
package integration
