package keyspace

// ToEnd is the end of a range that has none: etcd reads a range end of one NUL byte as "to the end of the key space".
const ToEnd = "\x00"

// First is the lowest key there can be: etcd has no empty key.
const First = "\x00"

// End is the end of the range of all keys that begin with prefix: the lowest key above all of them. Trailing 0xff
// bytes have no successor and are dropped; for "" and for nothing but 0xff there is no higher key and End is [ToEnd].
func End(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if c := prefix[i]; c < 0xff {
			end := make([]byte, i+1)
			copy(end, prefix)
			end[i] = c + 1
			return string(end)
		}
	}
	return ToEnd
}

// After is the lowest key above key: what a listing that has seen key goes on from.
func After(key string) string { return key + "\x00" }

// Range is the keys from From up to but without To. A To of [ToEnd] has no upper bound. The zero Range is empty.
type Range struct {
	From, To string
}

// All is the range of every key.
func All() Range { return Range{From: First, To: ToEnd} }

// Under is the range of the keys that begin with prefix, and all keys for "".
func Under(prefix string) Range {
	if prefix == "" {
		return All()
	}
	return Range{From: prefix, To: End(prefix)}
}

// One is the range of key alone. It is empty for "", since etcd has no empty key.
func One(key string) Range {
	if key == "" {
		return Range{}
	}
	return Range{From: key, To: After(key)}
}

// Empty reports whether no key can be in r.
func (r Range) Empty() bool { return r.To != ToEnd && r.From >= r.To }

// Contains reports whether key is in r.
func (r Range) Contains(key string) bool {
	return key >= r.From && (r.To == ToEnd || key < r.To)
}

// Intersect is the keys that are in both ranges, which may be none.
func (r Range) Intersect(other Range) Range {
	if other.From > r.From {
		r.From = other.From
	}
	if endsBelow(other.To, r.To) {
		r.To = other.To
	}
	if r.Empty() {
		return Range{}
	}
	return r
}

// endsBelow compares two range ends, of which ToEnd is the highest.
func endsBelow(a, b string) bool {
	return a != ToEnd && (b == ToEnd || a < b)
}
