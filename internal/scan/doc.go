// Package scan reads ranges of keys of any size at one revision, with one chunk in memory at a
// time.
//
// # Revision
//
// A scan yields the keys as they were at a single revision. If the caller does not give one, a scan
// that streams determines it with one linearizable read that transfers no keys, and a scan that
// reads pages takes it from the first page.
//
// # Streams and pages
//
// A scan opens a stream (RangeStream of etcd 3.7) for each range. The server then reads the range
// once, whereas for each page it reads the rest of the range again. If streams are not implemented
// (by an older server, a proxy, or a custom KV), or a chunk is larger than the client receives, the
// scan continues with pages. A page that is too large is halved, down to one key. Scans with a
// limit or in reverse order always use pages, because a stream supports neither.
//
// # Failures
//
// Each chunk is one step, which the caller's [RetryFunc] bounds in time and repeats. The time that
// the consumer takes between two chunks is not part of a step. After a failure, the scan continues
// at its revision after the last key that was yielded, so that no key is yielded twice or omitted.
// If the revision is compacted before anything was yielded, and the caller has not given it, the
// scan starts again at a newer one. Otherwise the error matches errs.Compacted.
//
// When the loop ends, for any reason, the stream is canceled and read to its end, and no goroutine
// is left.
package scan
