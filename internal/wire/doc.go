// Package wire looks after the edge between client/v3 and the network: whether a request was put on the wire, which
// calls insist on a leader, and why a connection is not there.
//
// # Was it sent
//
// [Track] gives a context whose [Attempt] learns whether the request made with it left this process. Two observers
// report to it: on a client that was prepared with [Harden] a gRPC stats handler, which sees every RPC; on any other
// client the KV of [KV], which asks gRPC through options of the single call. gRPC reports a payload only after it was
// handed to the transport, and a request that fails before is never sent later, so an observed attempt without a
// payload was provably not applied. An attempt that nobody observed says nothing.
//
// # One attempt
//
// client/v3 sends a Put or Txn again, up to a hundred times, when a server or a proxy answers Canceled or
// DeadlineExceeded while the caller's context lives. A hardened client does not (MaxUnaryRetries is 1); on others the
// KV of this package ends the attempt's context as soon as such an answer arrives, which stops the interceptor.
package wire
