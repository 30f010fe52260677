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
// A registration is a key on a lease. It is deleted when the process dies, and restored after its
// lease was lost, after somebody deleted or overwrote it, and after an outage of any length.
// [Registration.State] returns its state:
//
//	           Register                 Drain               Close
//	SUSPENDED ──────────▶ REGISTERED ─────────▶ LEAVING ──────────▶ CLOSED
//	    ▲                     │                    │
//	    └─────────────────────┴────────────────────┘  lease lost, key deleted, etcd away
//
// An ID belongs to one registration at a time. [Registry.Register] returns [ErrTaken] if the holder
// is alive. If it has crashed, Register waits until its lease expires, unless host and port are the
// same.
//
// To leave without a failed call, first call [Registration.Drain], which marks the instance and
// waits until clients have turned to others. Then let the server finish its calls, and call
// [Registration.Close]. Close after RegisterGRPC does all three. Close alone marks the instance,
// but does not wait.
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
//     vanish without having been drained, and any others are shown for that much longer. An
//     instance that was marked as draining, which Close does, goes at once.
//
// A [Picker] chooses among the instances that are [Up], or among the draining ones if there is
// none. [RoundRobin], [Random], [Weighted], [LeastLoaded] and [Sticky] are policies; [Filter] and
// [PreferZone] narrow the choice. An instance that fails five times in a row is not picked for
// 10 s, longer each time ([WithEjection]). At most half of the instances are left out.
//
// # Guarantees
//
//   - Close and a failed Register leave nothing behind; if etcd does not answer, what is left
//     expires with its TTL.
//   - No registration deletes or replaces that of another process, unless that has the same ID,
//     host and port, or [WithTakeover] is given. None replaces one of the same client.
//   - A view shows the instances of one revision and those held back, and never half of a
//     transaction.
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
// The functions document their RPCs. Besides, each lease costs one message per TTL/3, and up to 256
// registrations share one. All watches of the client together cost one message every 30 s ±20 %.
//
// # Errors
//
// Test for [ErrTaken], [ErrNoInstance], [ErrInvalid], [ErrTooLarge], [ErrUnavailable],
// [ErrPermission] and [ErrClosed] with errors.Is. If a context has ended, the error matches its Err
// and its Cause. [*TakenError] says who has the ID.
//
// # Lifetime
//
// Close a [Registry] before its client: [Registry.Close] ends its registrations and views. Contexts
// given to calls bound those calls only.
package discovery
