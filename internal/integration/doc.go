// Package integration holds the suites that need more of etcd than one process beside the tests can
// give: clusters whose members are killed, frozen, restarted and cut off from one another while the
// library is at work, and histories that are checked for linearizability.
//
// It is a module of its own, so that neither the etcd server nor its test framework ever becomes a
// requirement of the library. Most suites run against processes with etcd's default timing, from
// [github.com/etcdkit/etcdkit/internal/etcdtest]. Only what processes cannot offer, a network that
// is cut between members, comes from etcd's own test framework, whose members live in the test
// process and whose clocks run ten times as fast. Where holders of locks are stopped or killed they
// are child processes, which are this test binary once more.
//
// # What is checked
//
// Suites assert counts, orders and histories, which hold on any machine, and log the times that
// they have measured. A time is asserted only with room for a slow machine. A history is what
// clients were told; next to it stands what etcd's own history says, read by a plain watch of a
// client that nobody tampers with. porcupine looks for an order that explains all answers, and an
// answer that it does not find in time counts as none. Models come with tests that they refuse what
// is wrong, and a wrong way to retry is put through the same faults and must be caught.
//
// # Storms
//
// TestNemesis runs if ETCDKIT_FAULTS is a duration, as make faults has it. Child processes use all
// packages at once while members, the networks between members and in front of clients, passwords,
// certificates, and the processes themselves are broken, in an order that ETCDKIT_FAULTS_SEED
// determines. Each process writes a journal of what it asked, was told and believed, on a clock
// that all share. At the end the journals are held against etcd's history, by the checkers of the
// other suites. Locks of client/v3 and loops that people write run beside, and are counted by the
// same checks. TestSoak, with ETCDKIT_SOAK, looks for what grows under these faults, and for
// warnings that the failure model does not explain. Both write docs/reliability.json and
// docs/reliability.md if ETCDKIT_RELIABILITY is "write". TestRollingUpgrade, with ETCDKIT_UPGRADE
// set to anything, upgrades a cluster from etcd 3.5 to 3.7 under load.
//
// # Foreign suites
//
// TestForeignSuites runs etcd's own client tests over clients of this library, if ETCDKIT_FOREIGN
// is set to a regular expression of their names. The tests come from the module cache. Each mode
// makes the client in another way: by etcdkit.Open, or with kv.Namespace or kv.Coalesce as its KV.
// Mode plain is client/v3 alone, as the control. A failure that testdata/foreign/differences.txt
// does not list fails the run, and so does a listed test that passes.
//
// # Benchmarks
//
// TestBench measures the library beside its peer where ETCDKIT_BENCH is "quick" or "full", as make
// bench-quick and make bench have it, and writes docs/performance.md, docs/performance.json,
// docs/hand-off.svg, and the tables between comments in README.md and docs/compare.md. It goes on
// after an interruption with the scenarios that are missing. TestCounts compares what does not
// depend on the machine, such as RPCs, events and goroutines, with testdata/counts.json; make
// bench-counts writes that.
//
// # Short and long
//
// By default the suites take the short form, a few minutes on two cores. With ETCDKIT_LONG set to
// anything they run at full length, with ten thousand increments and minutes of faults:
//
//	ETCDKIT_LONG=1 go test -race -timeout 60m -v ./internal/integration
package integration
