// Package sim simulates an etcd cluster, the network and the faults of both, for tests of the whole
// library in virtual time.
//
//	synctest.Test(t, func(t *testing.T) {
//		s := sim.New(seed, sim.Options{})
//		defer s.Close()
//		a, err := s.Open(t.Context(), "a", s.Config()) // a process of its own, called a
//		s.StartFaults(sim.Plan{Kinds: []sim.Kind{sim.MoveLeader, sim.BlockLink}})
//		...                                            // use a, and others
//		s.StopFaults()                                 // the cluster recovers within seconds
//		...                                            // check what must hold
//		a.Close()
//	})
//
// # Layers
//
// Clients are those of the library, with client/v3 and gRPC as they are. Only the dialer is
// replaced: a connection is a pair of byte queues in memory. Everything above it is real: retries,
// keepalive pings, flow control, reconnection and backoff. The members run gRPC servers with
// services of this package. All goroutines belong to one synctest bubble, so that a minute takes
// about as long as the requests that are made in it.
//
//   - network.go: links between each client and each member, with latency, a rate, held bytes,
//     resets and refused connections.
//   - raft.go, member.go: one log, of which each member has applied a prefix. Proposals travel to
//     the leader, are committed when a majority is reached, and are applied by the others later. A
//     new leader keeps a random prefix of what was not committed. Messages of Raft are not
//     modelled, nor is the loss of a member's disk other than by Restore.
//   - store.go, kv.go, lease.go, watch.go, service.go: the state machine and the services, with
//     etcd's rules and errors. The leader alone knows when leases expire, and extends all of them
//     after an election.
//   - faults.go: faults, as methods and as a schedule.
//
// # Faithful to etcd
//
// TestModel compares the model with a real server: random requests have the same answers, errors,
// revisions and events on both. ETCDKIT_TEST_ETCD selects a server of another version. Times are
// those of etcd 3.7: a request has 7 s, a member without a leader for 3 s ends the streams that
// need one, and an election takes 1 s to 2 s.
//
// # Repetition
//
// The seed determines the faults, latencies and what the workloads draw from [Sim.Rand]. One
// goroutine, the scheduler, changes the state of the cluster. Handlers of requests only queue what
// has arrived. The scheduler sleeps for a nanosecond of the bubble's time before it looks at the
// queue, so that all requests of one moment are there, and handles them in the order of their
// content, not in that of the goroutines that brought them. Latencies depend on the link and the
// time of sending, not on the way in which gRPC cuts its output.
//
// docs/testing.md says which randomness remains, so that a violation may need several runs of its
// seed (-count), and what the simulation cannot show. gRPC also chooses the first connection of
// calls at random. [Sim.Fingerprint] tells whether two runs were the same. FreezeClient holds the
// bytes of a client, but its timers run. Clocks of clients run as fast as those of the members,
// unless Options.ClockRate changes the latter.
//
// # Workloads
//
// Each workload is a test file that begins with its invariants. forSeeds in sim_test.go runs it for
// each seed. A violation prints the seed and the end of the trace.
//
//	go test ./internal/sim -run TestSim -seed 7       # one seed
//	go test ./internal/sim -run TestSim -seeds 100    # the seeds from 1 to 100
//	go test ./internal/sim -run TestSim -seed 7 -trace /tmp/7 # writes the whole trace
//	make sim MINUTES=60                               # fresh random seeds for an hour
//
// Seeds that have found a defect are kept in keptSeeds and always run.
//
// Directory mutants checks that the workloads find defects.
package sim
