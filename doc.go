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
// [Open] returns once etcd has answered a read. Otherwise its error says what is wrong with each
// endpoint. Open refuses versions of etcd that can lose events; see [WithUnsupportedServers].
// [OpenLazy] only validates the configuration, for programs that must start while etcd is down.
// [Wrap] uses an existing client of client/v3; prepare its configuration with [Harden].
//
// Fill in a [Config], or read it with [LoadConfig], [ParseConfig] or [ConfigFromEnv]. Conflicts,
// such as mixed schemes or a password that would cross the network in clear text, are reported all
// at once and before anything is sent.
//
// # Lifetime
//
// Create one [Client] for the whole process. [Client.KV], [Client.Leases], [Client.Watcher] and
// [Client.Locks] return parts that are closed with it. [Client.Namespace] returns a client for the
// keys below a dir, over the same connection. [Client.Close] ends everything that the client runs
// and waits for it; calls in progress and later ones return [ErrClosed].
//
// # Changes
//
// These methods report changes. They differ in what happens if the receiver is slow:
//
//	Watcher.Watch      sequence of all events of the keys, in order, from now or from a revision
//	Watcher.Subscribe  the same with a callback; many subscriptions share one watch of the server
//	Watcher.Consume    the same with a stored checkpoint: each event is processed at least once,
//	                   even if the process restarts
//	Follow             callback with the changes of a cache.Replica, config.Value, config.Source or
//	                   discovery.Service; a slow one gets merged changes, and never an error
//	Election.Observe   sequence of the leaders; a slow loop gets only the latest one
//
// # Guarantees
//
//   - Every call is bounded: without a deadline in its context a read has 5 s and a write 10 s
//     (Config.ReadTimeout, Config.WriteTimeout). A deadline in the context replaces these, even if
//     it is later.
//   - If Open created the client, or Harden prepared its configuration, a request is repeated only
//     if that is safe; see package kv. A member without a leader rejects a call at once, and the
//     call is repeated at another member.
//   - An endpoint that does not answer is evicted within 5 s of the first overdue call or lost
//     connection, and readmitted after three successful probes. The last endpoint that answers is
//     never evicted.
//   - A slow call is also sent to a second member if that is safe. If the second member answers
//     first twice, the slow one must answer a linearizable read within a second or is evicted. This
//     detects a hung disk, which health checks do not.
//   - Passwords and certificates in files can be replaced without a restart. Concurrent calls share
//     a login, and a call whose token etcd no longer accepts is repeated with a new one.
//   - Errors, logs, [Report] and the client of client/v3 contain no password and no token. [Secret]
//     hides a value from fmt, log/slog and encoding.
//
// [docs/failure-model.md] describes every failure, with times.
//
// # Logging, metrics and traces
//
// The client and all packages log to [slog.Default] from the level Warn up, unless [WithLogger] is
// given. [Client.Metrics] yields the counters and gauges of all parts made with the client.
// [WithObserver] sets hooks for operations, such as the wait for a lock.
//
// # Errors
//
// Use errors.Is to test for a condition, whichever package returns the error: [ErrInvalid],
// [ErrUnavailable], [ErrUnauthenticated] and so on. [SafeToRetry] reports whether a failed call
// provably changed nothing.
//
// [docs/failure-model.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/failure-model.md
package etcdkit
