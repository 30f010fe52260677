package keyspace

import "strings"

// Hidden is the dir, directly below a namespace, of the library's own keys.
const Hidden = ".etcdkit/"

// Within is the absolute range of the keys that begin with prefix below the namespace ns, the hidden dir included. ns
// is a normalised dir or "", and prefix may be partial. The key that is called exactly as the namespace ("app/", which
// some tools keep as a placeholder) is not in it: below the namespace it would be the empty key, which does not exist.
func Within(ns, prefix string) Range {
	r := Under(ns + prefix)
	if prefix == "" {
		r.From = ns + First
	}
	return r
}

// Spans is [Within] without the namespace's hidden dir: one range, or two in key order where the hidden dir lies in
// between. A prefix that itself lies in the hidden dir gets what it asks for.
func Spans(ns, prefix string) []Range {
	all := Within(ns, prefix)
	// The hidden dir splits the range only where prefix is the beginning of its name, and not all of it.
	if len(prefix) >= len(Hidden) || !strings.HasPrefix(Hidden, prefix) {
		return []Range{all}
	}
	hidden := Under(ns + Hidden)
	return []Range{{From: all.From, To: hidden.From}, {From: hidden.To, To: all.To}}
}

// IsHidden reports whether key, relative to its namespace, is one of the library's own.
func IsHidden(key string) bool { return strings.HasPrefix(key, Hidden) }
