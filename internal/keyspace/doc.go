// Package keyspace provides functions on etcd's flat key space. They validate dirs, prefixes, names
// and keys, and compute the ranges that belong to them.
//
// All functions are pure. Keys are compared as bytes, as in etcd, and are never cleaned or escaped:
// "../x" is an ordinary key.
//
// # Terms
//
// A dir, such as a namespace, is written with or without a trailing slash, and is normalized to
// exactly one. A prefix is "" or ends in "/", because "app" would also select "app2/secret". A
// name, of a lock or a service, is a path inside a dir that neither begins nor ends with a slash. A
// key is any non-empty sequence of bytes.
//
// # The hidden dir
//
// The library keeps its own keys in [Hidden], directly below each namespace. [Spans] excludes it
// from the range of a listing.
package keyspace
