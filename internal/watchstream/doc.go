// Package watchstream opens server-side watches for package watch, and finds out when the streams
// that carry them are dead.
//
// A [Pool] holds the streams of a client: one for all live watches, up to 16 for watches that catch
// up, and one for each replay. A [Stream] is acquired from the pool, opens any number of watches,
// and is released. A [Watch] delivers [Response] values until it ends with an error.
//
// The package never reopens anything. A caller replaces a watch that has ended, and moves away from
// a stream that was retired. The protocol is in docs/watch-protocol.md.
package watchstream
