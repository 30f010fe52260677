// Package wire observes and configures the requests of client/v3: whether a request was sent, which
// calls require a leader, and why there is no connection.
//
// # Was it sent
//
// [Track] returns a context whose [Attempt] records whether the request made with it has left this
// process. An attempt is observed if its request passes the interceptors of a client that was
// prepared with [Harden], or the KV that [KV] returns for any other client. Both set a codec for
// the single call. gRPC encodes a request after it has opened a stream on a connection, and a
// request that fails before that is never sent later. So an observed attempt that was not encoded
// was provably not applied. An attempt that was not observed proves nothing.
//
// # One attempt
//
// client/v3 repeats a Put or Txn up to a hundred times if a server or a proxy returns Canceled or
// DeadlineExceeded while the caller's context has not ended. A hardened client does not
// (MaxUnaryRetries is 1). For others, the KV of this package cancels the attempt's context as soon
// as such an error arrives, which stops the interceptor.
package wire
