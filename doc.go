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
// [Open] returns once etcd has answered a read, or returns an error within the dial timeout that
// says what is wrong with each endpoint: a refused connection, an untrusted certificate, a wrong
// password. [OpenLazy] only checks the configuration, for programs that must start without etcd.
// [Wrap] works over a client of client/v3 that the program has already; [Harden] prepares the
// configuration of such a client.
//
// Open returns [ErrUnsupportedServer] if a member runs etcd before 3.5.13, or before 3.4.31 in the
// 3.4 line, unless [WithUnsupportedServers] is given; OpenLazy and Wrap log a warning.
//
// [Config] is plain data. Fill it in, or read it with [LoadConfig], [ParseConfig] or
// [ConfigFromEnv]. Contradictions, such as mixed schemes, half a login, or a password that would
// cross the network in clear text, are reported all at once and before anything is sent.
//
// # Lifetime
//
// Make one [Client] for the whole process. [Client.KV], [Client.Leases], [Client.Watcher] and
// [Client.Locks] return parts that are made and closed with it. [Client.Namespace] returns a view
// of the client below a dir, which owns nothing. [Client.Close] ends everything that the client
// runs and waits for it; calls in progress and later ones return [ErrClosed]. A client that was
// given to Wrap stays open, and with it the stores over it.
//
// # Guarantees
//
//   - No call waits for ever: without a deadline in its context a read has 5 s and a write 10 s
//     (Config.ReadTimeout, Config.WriteTimeout). A deadline in the context replaces these, also a
//     later one.
//   - Over a client of Open, or one whose configuration went through Harden, a request is repeated
//     only if that is safe; see package kv. Members without a leader refuse calls at once, and the
//     calls are made elsewhere.
//   - With two endpoints or more, health checks ask each of them about once a minute, and at once if
//     something there is overdue or a connection is lost. One that fails twice is evicted, within 5 s
//     of that, and readmitted after three good answers. The last one that answers is never evicted.
//   - A slow call is made a second time at another member if that is safe. A member whose calls
//     were answered elsewhere twice must answer a linearizable read within a second or is evicted:
//     one whose disk hangs still answers health checks.
//   - A password file is read again for every login and TLS files for every connection, so that
//     both can be replaced without a restart. Concurrent calls share a login, and a call whose
//     token etcd no longer accepts is repeated with a new one.
//
// [Client.SetEndpoints] replaces the endpoints, and [WithEndpointSync] does so from the list of
// members.
//
// # What is not guaranteed
//
//   - That an endpoint answers because it is in use.
//   - That two clients notice a failure at the same time.
//
// # Secrets
//
// [Secret] hides its value from fmt, log/slog and encoding, also in an unexported field.
// [NewSecret] makes one, and its method Reveal returns the value. Errors, logs, [Report], the body
// of [Client.ReadyHandler] and the client of client/v3 below hold no password and no token.
//
// # Logging
//
// The client and all packages log to [slog.Default] from the level Warn up, unless [WithLogger] is
// given.
//
// # Errors
//
// Conditions are matched with errors.Is, whichever package returns the error: [ErrInvalid],
// [ErrUnavailable], [ErrUnauthenticated] and so on. [SafeToRetry] reports whether a failed call
// provably changed nothing.
package etcdkit
