// Package etcdkit opens a connection to etcd that goes on being right when something breaks, and hands out the parts
// that work over it.
//
//	c, err := etcdkit.Open(ctx, etcdkit.Config{
//		Endpoints: []string{"https://etcd-1:2379", "https://etcd-2:2379", "https://etcd-3:2379"},
//		Namespace: "orders/",
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	rev, err := c.KV().Put(ctx, "42", []byte("paid"))
//
// # Opening
//
// [Open] returns once etcd has answered a read, or says within the dial timeout what is wrong with each endpoint: the
// connection that is refused, the certificate that is not trusted, the password that is wrong. [OpenLazy] only checks
// the configuration, for programs that must start while etcd is away. Open returns [ErrUnsupportedServer] if a member
// runs etcd before 3.5.13, or before 3.4.31 in the 3.4 line, unless [WithUnsupportedServers] is given; OpenLazy and Wrap log a
// warning. [Wrap] works over a client of client/v3 that the program has already; [Harden] prepares the configuration of such a
// client.
//
// [Config] is plain data: fill it in, or read it with [LoadConfig], [ParseConfig] or [ConfigFromEnv]. What contradicts itself is
// refused before anything is sent, with all complaints at once: mixed schemes, half a login, a password that would cross
// the network in clear text.
//
// # Lifetime
//
// A [Client] is made once and used by the whole process. Its parts, [Client.KV], [Client.Leases], [Client.Watcher] and
// [Client.Locks], are accessors: they are made with the client and closed with it. [Client.Namespace] is a view of the
// same client below a dir and owns nothing. [Client.Close] ends everything the client runs and waits for it; calls under
// way, and later ones, return [ErrClosed].
// A client that was given to Wrap stays open, and with it the stores over it.
//
// No call waits for ever while etcd is down: without a deadline in its context a read is given 5 s and a write 10 s
// (Config.ReadTimeout, Config.WriteTimeout). A deadline in the context takes the place of these, a later one as well.
//
// # Guarantees
//
// Over a client that Open made, or one whose configuration went through Harden, a request is sent again only when that
// can do no harm; see package kv. Members without a leader refuse calls at once instead of letting them wait, and the
// call is made elsewhere.
//
// With two endpoints or more a patrol asks each of them for a sign of life every 2 s. One that fails twice is left out of
// the balancing within 5 s, and comes back after three good answers; the last one that answers is never left out.
// [Client.SetEndpoints] replaces the endpoints, [WithEndpointSync] does so from the list of members.
//
// A call that is slow is made a second time, at another member, where that can do no harm; see package kv. An endpoint whose
// calls were settled elsewhere twice has to answer a linearizable read within a second, or it is left out: a member whose
// disk hangs still answers health checks.
//
// User and password are asked for on every login, so a rotated password file needs no restart, and the files of
// TLS are read for every new connection. Calls that need a login at the same time share one, and a call whose token
// etcd no longer accepts is made again with a new one.
//
// Not guaranteed: that an endpoint answers because it is in use, and that two clients see a failure at the same time.
//
// # Secrets
//
// [Secret] hides its value from packages fmt, log/slog and encoding, also in an unexported field. [NewSecret] makes one and
// Reveal returns the value. Errors, logs, [Report] and the body of
// [Client.ReadyHandler] hold no password and no token, and neither does the client of client/v3 below.
//
// # Logging
//
// The client and all packages log to [slog.Default] from the level Warn up unless they are given a logger: see [WithLogger].
//
// # Errors
//
// Conditions are matched with errors.Is, whichever package an error comes from: [ErrInvalid], [ErrUnavailable],
// [ErrUnauthenticated] and so on. [SafeToRetry] says of any failed call whether it provably changed nothing.
package etcdkit
