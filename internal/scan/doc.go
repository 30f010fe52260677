// Package scan reads ranges of keys of any size at one revision, one chunk in memory at a time.
//
// # One revision
//
// All that a scan yields is what etcd held at one revision R. Where the caller names none, a scan that streams finds it
// with one linearizable read that transfers nothing; one that pages takes that of its first page.
//
// # Streams, and pages where there are none
//
// A scan opens a stream (RangeStream of etcd 3.7) for each range at R: the server walks the range once, where each page
// makes it walk the rest of the range again. Pages take over for good where the stream is not implemented (an older
// server, a proxy, a KV of the user's own) or its chunks are larger than the client receives; they are cut in half
// while they are too large, down to one key. Scans that have a limit, or run backwards, are made of pages from the
// start: a stream can do neither.
//
// # Failures
//
// Each chunk is one step, which the caller's [Policy] bounds in time and repeats. The time that the consumer takes
// between two chunks counts for no step. A stream that breaks and a page that fails go on at R behind the last key that
// was yielded, so that no key comes twice and none is left out. When R is compacted before anything was yielded, and
// the caller has not named it, the scan begins anew at a newer one; afterwards the error matches errs.Compacted.
//
// When the loop is left, by whatever way, the stream is cancelled and read to its end, and no goroutine is left.
package scan
