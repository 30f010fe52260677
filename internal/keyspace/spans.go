package keyspace

import "strings"

// Hidden is the dir of the library's own keys, directly below a namespace.
const Hidden = ".etcdkit/"

// Within returns the absolute range of the keys that begin with prefix below the namespace ns,
// including the hidden dir. ns is a normalized dir or "". prefix may be partial.
//
// The range does not contain the key named exactly like the namespace ("app/", which some tools
// keep as a placeholder). Below the namespace it would be the empty key, which does not exist.
func Within(ns, prefix string) Range {
	r := Under(ns + prefix)
	if prefix == "" {
		r.From = ns + First
	}
	return r
}

// Spans returns [Within] without the namespace's hidden dir. It returns one range, or two in key
// order if the hidden dir lies between them. If prefix itself lies in the hidden dir, the range is
// that of Within.
func Spans(ns, prefix string) []Range {
	all := Within(ns, prefix)
	// The hidden dir splits the range only if prefix is a proper prefix of its name.
	if len(prefix) >= len(Hidden) || !strings.HasPrefix(Hidden, prefix) {
		return []Range{all}
	}
	hidden := Under(ns + Hidden)
	return []Range{{From: all.From, To: hidden.From}, {From: hidden.To, To: all.To}}
}

// IsHidden reports whether key, which is relative to its namespace, is one of the library's own.
func IsHidden(key string) bool { return strings.HasPrefix(key, Hidden) }
