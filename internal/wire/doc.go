// Package wire looks after the edge between client/v3 and the network: whether a request was put on the wire, which
// calls insist on a leader, and why a connection is not there.
//
// # Was it sent
//
// [Track] returns a context whose [Attempt] learns whether the request made with it left this process. It is observed where
// the request passes the interceptors of a client that was prepared with [Harden], or the KV of [KV] on any other client.
// Both give gRPC a codec for the single call. gRPC encodes a request once it has begun a stream on a connection, and a
// request that fails before is never sent later, so an observed attempt that was not encoded was provably not applied. An
// attempt that nobody observed says nothing.
//
// # One attempt
//
// client/v3 sends a Put or Txn again, up to a hundred times, when a server or a proxy answers Canceled or
// DeadlineExceeded while the caller's context lives. A hardened client does not (MaxUnaryRetries is 1); on others the
// KV of this package ends the attempt's context as soon as such an answer arrives, which stops the interceptor.
package wire
