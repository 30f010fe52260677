// Package discovery registers the instances of a service in etcd and finds them again. A
// registration lasts as long as its process, and views of services keep working while etcd does not
// answer.
//
//	registry, err := discovery.New(client)
//	defer registry.Close()
//
//	self := discovery.Instance{Service: "orders", ID: hostname, Host: ip, Port: 8080}
//	reg, err := registry.Register(ctx, self)
//	defer reg.Close() // removes the instance from every view
//
//	orders, err := registry.OpenService(ctx, "orders") // in another process
//	picker := orders.Picker(discovery.RoundRobin())
//	pick, err := picker.Pick()
//	pick.Done(call(pick.Instance.Addr()))
//
// With gRPC each side is one line: [Registry.RegisterGRPC] for a server, and for a client
// grpc.NewClient("etcd:///orders", grpc.WithResolvers(registry.Resolver()), ...).
//
// # Registrations
//
// A registration is desired state: a key on a lease, which is deleted when the process dies, and
// restored after its lease was lost, after somebody deleted or overwrote it, and after an outage of
// any length. [Registration.State] tells where it is:
//
//	           Register                 Drain               Close
//	SUSPENDED ──────────▶ REGISTERED ─────────▶ LEAVING ──────────▶ CLOSED
//	    ▲                     │                    │
//	    └─────────────────────┴────────────────────┘  lease lost, key deleted, etcd away
//
// An ID belongs to one registration at a time. If its holder is alive, [Registry.Register] returns
// [ErrTaken]. If its process has crashed, Register waits until the lease expires, or replaces it at
// once if host and port are the same.
//
// To leave without a failed call: [Registration.Drain] marks the instance and waits until clients
// have turned to others, then the server finishes its calls, then [Registration.Close] deletes the
// key. Close of RegisterGRPC does all three. Close alone marks the instance, but does not wait.
//
// # Views
//
// A view ([Registry.OpenService]) holds the instances of one service, which a watch keeps up to
// date. While etcd does not answer, it shows the last state; [Service.Age] bounds what it has
// missed.
//
//   - An invalid entry is skipped and reported ([WithBadEntry]). The last valid state of the
//     instance stays.
//   - A sudden loss is held back: within [WithGrace] (30 s) at most half of the instances may
//     vanish without having been drained; the others are shown for that much longer, unless they
//     return. An instance that was marked as draining, which Close does, goes at once.
//
// A [Picker] chooses among the instances that are [Up], or among the draining ones if there is
// none. [RoundRobin], [Random], [Weighted], [LeastLoaded] and [Sticky] are policies, [Filter] and
// [PreferZone] narrow the choice. After five failures in a row an instance is not picked for 10 s,
// longer each time ([WithEjection]), but never more than half.
//
// # Guarantees
//
//   - Close and a failed Register leave nothing behind; if etcd does not answer, for no longer than
//     the TTL.
//   - No registration deletes or replaces that of another process, unless that has the same ID,
//     host and port, or with [WithTakeover]. None replaces one of the same client.
//   - A view never shows half of a transaction: it shows the instances of one revision and those
//     held back.
//   - A resolver never gives gRPC an empty list because etcd does not answer, and a change of an
//     instance's metadata does not close its connection.
//
// # What is not guaranteed
//
//   - That an instance lives: one that was killed is shown until its TTL ([WithTTL], 30 s) has
//     passed, and up to a second more. Nor that one which is not shown is dead.
//   - That two views show the same.
//   - That only one process uses an ID: one that is cut off for longer than its TTL may still serve
//     while a successor is registered. Use package lock if that matters.
//
// # Format
//
// Other languages may read and write the keys. Below the client's namespace an instance is
//
//	services/<service>/instances/<id>
//
// Neither name has a "/". The writer puts the key on a lease that it renews. The value is a JSON
// object, of which only host and port are required, and unknown members are ignored:
//
//	{
//	  "serviceName": "orders",                     if present, as in the key
//	  "instanceId": "orders-7d4f",                 if present, as in the key
//	  "host": "10.0.0.7",                          DNS name, or IP address without brackets
//	  "port": 8080,                                1 to 65535
//	  "scheme": "https",
//	  "version": "1.4.2",
//	  "zone": "eu-1a",
//	  "weight": 2,                                 absent or 0 counts as 1
//	  "tags": ["canary"],
//	  "metadata": {"owner": "payments"},
//	  "status": "up",                              or "draining"; absent counts as "up"
//	  "registrationTime": "2026-01-02T03:04:05.678Z"  RFC 3339, or milliseconds since 1970
//	}
//
// Mark an instance that works as draining before you delete it, since its end counts as a failure
// otherwise. [WithGRPCNaming] uses the keys and values of client/v3/naming instead.
//
// # Cost
//
//	Register        1 RPC and a watch; 1 more for a lease, which 256 registrations share
//	a registration  one message per TTL/3, for all on the lease
//	Update, Drain   1 RPC; Close 2, or 1 after Drain
//	OpenService     a streamed list and a server-side watch for the first view of a service
//	a view          one message every 30 s ±20 % for all watches of the client; one per change
//	Pick            no RPC, no allocation; Instances no RPC
//	Services        a streamed list of keys; FollowServices also a server-side watch
//
// # Errors
//
// Conditions are matched with errors.Is: [ErrTaken], [ErrNoInstance], [ErrInvalid], [ErrTooLarge],
// [ErrUnavailable], [ErrPermission], [ErrClosed]. If a context has ended, the error matches its Err
// and its Cause. [*TakenError] says who has the ID.
//
// # Lifetime
//
// Close a [Registry] before its client: [Registry.Close] ends its registrations and views. Contexts
// given to calls bound those calls only.
package discovery
