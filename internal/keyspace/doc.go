// Package keyspace is the arithmetic of etcd's flat key space: what makes a legal directory, prefix, name or key,
// where a prefix ends, and which byte ranges a listing below a namespace may touch.
//
// Everything here is a pure function over bytes. Keys are compared bytewise, as etcd does; nothing is cleaned,
// folded or escaped, so "../x" is a key like any other.
//
// # Words
//
// A dir (a namespace, the home of a typed store) is written with or without its trailing slash and is normalised to
// exactly one. A prefix selects keys and says where it ends: it is "" or ends in "/", because "app" also selects
// "app2/secret". A name (of a lock, a service) is a path inside a dir and neither begins nor ends with a slash. A key
// is any sequence of bytes but the empty one.
//
// # The hidden dir
//
// [Hidden], directly below each namespace, is where the library keeps its own keys. [Spans] cuts it out of every
// listing that does not ask for it.
package keyspace
