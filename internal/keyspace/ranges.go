package keyspace

// ToEnd is the end of a range without an upper bound. etcd reads a range end of one NUL byte as the
// end of the key space.
const ToEnd = "\x00"

// First is the lowest possible key. etcd has no empty key.
const First = "\x00"

// End returns the end of the range of all keys that begin with prefix, which is the lowest key
// above all of them. Trailing 0xff bytes have no successor and are dropped. If no byte is left,
// there is no higher key and End returns [ToEnd].
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

// After returns the lowest key above key. A listing that has read key continues there.
func After(key string) string { return key + "\x00" }

// Range contains the keys from From up to, but not including, To. If To is [ToEnd], the range has
// no upper bound. The zero Range is empty.
type Range struct {
	From, To string
}

// All returns the range of all keys.
func All() Range { return Range{From: First, To: ToEnd} }

// Under returns the range of the keys that begin with prefix. For "" it contains all keys.
func Under(prefix string) Range {
	if prefix == "" {
		return All()
	}
	return Range{From: prefix, To: End(prefix)}
}

// One returns the range that contains only key. For "" it is empty, because etcd has no empty key.
func One(key string) Range {
	if key == "" {
		return Range{}
	}
	return Range{From: key, To: After(key)}
}

// Empty reports whether r cannot contain a key.
func (r Range) Empty() bool { return r.To != ToEnd && r.From >= r.To }

// Contains reports whether key is in r.
func (r Range) Contains(key string) bool {
	return key >= r.From && (r.To == ToEnd || key < r.To)
}

// Intersect returns the range of the keys that are in both ranges. It may be empty.
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

// endsBelow reports whether the range end a is below b. ToEnd is the highest range end.
func endsBelow(a, b string) bool {
	return a != ToEnd && (b == ToEnd || a < b)
}
