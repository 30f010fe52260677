// Package keywatch watches single keys for a lock: many of them, at little cost, and without
// history.
//
// A watch starts at the present. The server confirms it with a revision, and the handler gets every
// change after that revision, in order, until the stream breaks. The watch is then opened again and
// confirmed with a later revision; changes in between are not delivered. A handler that must not
// miss a change reads the key after each confirmation with a revision later than what it knows.
//
// All watches of a [Watcher] share one gRPC stream, and equal watches share one on the server. A
// watch costs no goroutine. The stream is opened for the first watch and closed 30 s after the last
// one has ended. An idle stream is probed every 30 s, and a stream that does not respond for 4 s is
// replaced.
package keywatch
