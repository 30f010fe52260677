// Package etcdkit provides a fault-tolerant etcd client and the packages built on it.
//
//	client, err := etcdkit.Open(ctx, etcdkit.Config{
//		Endpoints: []string{"https://etcd-1:2379", "https://etcd-2:2379", "https://etcd-3:2379"},
//		Namespace: "orders/",
//	})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	rev, err := client.KV().Put(ctx, "42", []byte("paid"))
//
// # Opening
//
// [Open] returns once etcd has answered a read. Otherwise it returns an error within the dial
// timeout that says what is wrong with each endpoint: a refused connection, an untrusted
// certificate, a wrong password. [OpenLazy] only validates the configuration, for programs that
// must start while etcd is down. [Wrap] uses an existing client of client/v3; [Harden] prepares the
// configuration of such a client.
//
// Open returns [ErrUnsupportedServer] if a member runs etcd before 3.5.13, or before 3.4.31 in the
// 3.4 line, unless [WithUnsupportedServers] is given; OpenLazy and Wrap log a warning.
//
// [Config] is plain data. Fill it in, or read it with [LoadConfig], [ParseConfig] or
// [ConfigFromEnv]. Conflicts, such as mixed schemes, a user without a password, or a password that
// would cross the network in clear text, are reported all at once and before anything is sent.
//
// # Lifetime
//
// Create one [Client] for the whole process. [Client.KV], [Client.Leases], [Client.Watcher] and
// [Client.Locks] return parts that are closed with it. [Client.Namespace] returns a client for a
// dir that uses the same connection and owns nothing. [Client.Close] ends everything that the
// client runs and waits for it; calls in progress and later ones return [ErrClosed]. A client that
// was given to Wrap stays open.
//
// # Changes
//
// Five methods report changes. They differ in what they report and in how a slow receiver is
// treated:
//
//	Watch      sequence of the events of keys: all of them, in order, from now or from a revision
//	Subscribe  the same with a callback; many subscriptions share one watch of the server
//	Consume    the same with a stored checkpoint: each event is processed at least once, also
//	           after a restart
//	Follow     callback with the current state and its changes, of a cache, a configuration value
//	           or a service; a slow callback gets merged changes, and errors are handled inside
//	Observe    sequence of the leaders of an election, of which only the latest counts
//
// The first three are methods of [watch.Watcher]. Follow is a method of cache.Replica,
// config.Value, config.Source and discovery.Service, Observe one of lock.Election.
//
// # Guarantees
//
//   - Every call is bounded: without a deadline in its context a read has 5 s and a write 10 s
//     (Config.ReadTimeout, Config.WriteTimeout). A deadline in the context replaces these, even if
//     it is later.
//   - If the client was created by Open, or its configuration by Harden, a request is repeated only
//     if that is safe; see package kv. Members without a leader reject calls at once, and the calls
//     are made elsewhere.
//   - If there are two endpoints or more, health checks probe each of them about once a minute, and
//     at once if a call there is overdue or a connection is lost. One that fails twice is evicted,
//     within 5 s of that, and readmitted after three successes. The last one that answers is never
//     evicted.
//   - A slow call is made a second time at another member if that is safe. A member whose calls
//     were answered elsewhere twice must answer a linearizable read within a second or is evicted:
//     one whose disk hangs still answers health checks.
//   - A password file is read for every login and TLS files for every connection, so that they can
//     be replaced without a restart. Concurrent calls share a login, and a call whose token etcd no
//     longer accepts is repeated with a new one.
//
// [Client.SetEndpoints] replaces the endpoints, and [WithEndpointSync] does so from the list of
// members.
//
// An endpoint in use need not answer, and two clients need not notice a failure at the same time.
//
// # Secrets
//
// [Secret] hides its value from fmt, log/slog and encoding, also in an unexported field. Errors,
// logs, [Report], the body of [Client.ReadyHandler] and the client of client/v3 contain no password
// and no token.
//
// # Logging
//
// The client and all packages log to [slog.Default] from the level Warn up, unless [WithLogger] is
// given.
//
// # Metrics and traces
//
// [Client.Metrics] yields the counters and gauges of all parts that were made with the client.
// [WithObserver] sets hooks for operations, such as the wait for a lock. examples/prometheus and
// examples/otel are adapters.
//
// # Errors
//
// Use errors.Is to test for a condition, whichever package returns the error: [ErrInvalid],
// [ErrUnavailable], [ErrUnauthenticated] and so on. [SafeToRetry] reports whether a failed call
// provably changed nothing.
package etcdkit
