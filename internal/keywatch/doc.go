// Package keywatch watches single keys for a lock: many of them, at little cost, and without history.
//
// A watch is opened from the present on. The server confirms it with a revision, which the handler is given:
// it is told of every change after that revision, in order, until the stream breaks. Then the watch is opened anew, and
// confirmed with a higher revision; what happened in between is not delivered. A handler that must not miss a
// change reads the key after each confirmation whose revision is higher than what it knows.
//
// All watches of a [Watcher] share one gRPC stream, and equal ones share one watch on the server. A watch
// costs no goroutine. The stream is opened by the first watch and closed 30 s after the last. A stream that does not
// answer is replaced: an idle one is tried every 30 s, and given up after 4 s of silence.
package keywatch
