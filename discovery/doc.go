// Package discovery lets the instances of a service be found: they register in etcd and stay registered for as long as they
// live, and whoever calls them has the current list in memory, picks from it, or hands it to gRPC.
//
//	registry := discovery.New(client)
//	defer registry.Close()
//
//	reg, err := registry.Register(ctx, discovery.Instance{Service: "orders", ID: hostname, Host: ip, Port: 8080})
//	...
//	defer reg.Close() // at the end: gone from every view at once
//
//	orders, err := registry.OpenService(ctx, "orders") // elsewhere
//	picker := orders.Picker(discovery.RoundRobin())
//	pick, err := picker.Pick()
//	...
//	pick.Done(call(pick.Instance.Addr()))
//
// With gRPC, both sides are one line each: [Registry.RegisterGRPC] for a server, and for a client
// grpc.NewClient("etcd:///orders", grpc.WithResolvers(registry.Resolver()), …).
//
// # Registrations
//
// A registration is desired state. It is a key on a lease, so that it goes away when its process dies, and it is put back,
// for ever, when the lease was lost, when somebody has deleted or overwritten it, and when etcd was away, for however long
// and whatever it has lost meanwhile.
//
//	           Register                 Drain               Close
//	SUSPENDED ──────────▶ REGISTERED ─────────▶ LEAVING ──────────▶ CLOSED
//	    ▲                     │                    │
//	    └─────────────────────┴────────────────────┘  lease lost, key deleted, etcd away: restored from here
//
// An ID belongs to one registration at a time. Whoever comes second finds out whether the first is alive: a key whose lease
// is being renewed is taken ([ErrTaken]); one that a crashed process has left is waited out, or replaced at once if it has
// the same host and port. An old process which shuts down late leaves its successor alone: it deletes its key only while
// that is on one of its own leases, whose IDs are random.
//
// To leave without failing anybody takes three steps, in this order: [Registration.Drain] marks the instance and waits until
// clients have turned elsewhere, then the server finishes what it has begun, and [Registration.Close] deletes the key.
// RegisterGRPC does it in its Close. Close alone marks, too, but waits for nobody.
//
// # Views
//
// A view ([Registry.OpenService]) is the instances of one service, followed by a watch that all views of the name share. It
// refuses to go blind:
//
//   - While etcd is away it shows what it showed last. [Service.Age] says for how long it may have missed changes.
//   - An entry that cannot be used is skipped, logged, counted ([Stats]) and reported ([WithBadEntry]). What was known of the
//     instance before stays.
//   - A sudden loss is held back. Within [WithGrace] (30 s), at most half of the instances may go without having said so; the
//     others are shown for that much longer, unless they come back. Instances rarely die together. Leases do, when etcd was
//     too busy to renew them, and keys do, when a cluster has lost its data: then the instances are well, and register anew.
//     Whoever was marked as draining, which Close does, goes at once. Fewer than three instances are held back only where
//     the watch was interrupted, and all are where the cluster's history was replaced. [Stats] tells how many are held.
//
// # Picking
//
// A [Picker] takes one of the instances that are [Up], or, when there is none, of those that drain. [RoundRobin], [Random],
// [Weighted], [LeastLoaded] and [Sticky] are its policies, and any type with the method Choose is one. [Filter] conditions
// and [PreferZone] narrow the choice. What is reported to [Pick.Done] counts: an instance that fails five times in a row is
// left alone for 10 s, longer the more often that happens ([WithEjection]), but never more than half of the instances are.
//
// # Guarantees
//
//   - A registration whose process lives, and whose client is not closed, comes back.
//   - Close and a failed Register leave nothing of their own behind; where etcd cannot be reached, for no longer than the TTL.
//   - No registration deletes or replaces that of another process, unless that has the same ID, host
//     and port, or with [WithTakeover]. None replaces one of the same client.
//   - A view never shows half of a transaction. Its instances are those of some revision of etcd, and those held back.
//   - A resolver never tells gRPC of an empty list because etcd is away, and a change of what is said of an instance does not
//     cost its connection.
//
// # What is not guaranteed
//
//   - That an instance which is shown lives: a process that was killed is shown until its TTL has passed (30 s; [WithTTL]),
//     and up to a second more. Nor that one which is not shown does not: see [Service.Age].
//   - That two views show the same at the same time. They are milliseconds behind etcd while all is well.
//   - That an ID is used by one process only at all times: who was cut off from etcd for longer than its TTL may go on
//     serving while a successor is registered. Use package lock where that matters.
//   - That two processes agree by the clock. Registered is by the clock of the instance, and for people.
//
// # Format
//
// Other languages may read and write what is in etcd. Below the client's namespace, an instance is the key
//
//	services/<service>/instances/<id>
//
// where neither name has a "/". Whoever writes one attaches it to a lease and renews that. The value is a JSON object. Only
// host and port are required, and unknown members are ignored:
//
//	{
//	  "serviceName": "orders",                      if present, as in the key
//	  "instanceId": "orders-7d4f",                  if present, as in the key
//	  "host": "10.0.0.7",                           DNS name, IPv4 or IPv6 address without brackets
//	  "port": 8080,                                 1 to 65535
//	  "scheme": "https",
//	  "version": "1.4.2",
//	  "zone": "eu-1a",
//	  "weight": 2,                                  absent or 0 counts as 1
//	  "tags": ["canary"],
//	  "metadata": {"owner": "payments"},            text by text
//	  "status": "up",                               or "draining": about to leave, send nothing new; absent counts as "up"
//	  "registrationTime": "2026-01-02T03:04:05.678Z"   RFC 3339; milliseconds since 1970 are read as well
//	}
//
// Who deletes an instance that was well should mark it as draining first, since its end is taken for a failure otherwise.
// [WithGRPCNaming] switches to the keys and values of client/v3/naming.
//
// # Cost
//
//	Register                1 RPC and a watch; 1 more for the lease that up to 256 registrations of a client share
//	a registration          a third of a TTL apart, one message for all on the lease
//	Update, Drain           1 RPC
//	Close                   2 RPCs, 1 after Drain
//	OpenService             a streamed list and a server-side watch for the first of a name, nothing for others
//	a view                  one message each second on a stream of the client; a change is a message
//	Instances               a copy of the list, no RPC
//	Pick                    no RPC, no allocation
//	Services                a streamed list of keys
//	FollowServices          a streamed list and a server-side watch
//
// # Errors
//
// Conditions are matched with errors.Is: [ErrTaken], [ErrNoInstance], [ErrInvalid], [ErrTooLarge], [ErrUnavailable],
// [ErrPermission], [ErrClosed]. Where a context has ended the error matches its Err and its Cause.
// Who has a taken ID is found with errors.As in [*TakenError]. The text is `discovery: register "orders/a": reason`.
//
// # Lifetime
//
// A [Registry] belongs to whoever made it and is closed before its client. Close ends its registrations, together, and its
// views, and waits for what runs; it takes about 5 s when etcd is away. Contexts given to calls bound those calls alone.
package discovery
