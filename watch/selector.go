package watch

import (
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Selector selects the keys to watch. It is comparable. The zero Selector is invalid.
type Selector struct {
	kind     selectorKind
	from, to string
}

type selectorKind int

const (
	selectNothing selectorKind = iota
	selectKey
	selectPrefix
	selectRange
)

// Key selects one key, which must not be empty.
func Key(key string) Selector { return Selector{kind: selectKey, from: key} }

// Prefix selects the keys that begin with prefix, or all keys of the namespace if prefix is "". A
// prefix that does not end in "/" is invalid, because "users/4" also selects "users/42", unless
// [WithPartialPrefix] is given.
func Prefix(prefix string) Selector { return Selector{kind: selectPrefix, from: prefix} }

// Range selects the keys from (inclusive) to (exclusive), compared bytewise. An empty from is the
// first key of the namespace, an empty to the end of the namespace.
func Range(from, to string) Selector { return Selector{kind: selectRange, from: from, to: to} }

// String returns the key, the prefix followed by "*", or "[from, to)".
func (s Selector) String() string {
	switch s.kind {
	case selectKey:
		return s.from
	case selectPrefix:
		return s.from + "*"
	case selectRange:
		return "[" + s.from + ", " + s.to + ")"
	case selectNothing:
	}
	return ""
}

// span is the range of a selector in a namespace.
type span struct {
	keyspace.Range // the range of the server-side watch

	listRanges []keyspace.Range // the ranges to list, without the library's own keys
	ns         string
	hasHidden  bool // the range contains keys of the library, which must be omitted
}

// resolve validates a selector and returns its span in the namespace ns.
func (s Selector) resolve(ns string, partial bool) (span, error) {
	switch s.kind {
	case selectKey:
		if err := keyspace.Key(s.from, 0); err != nil {
			return span{}, err
		}
		one := keyspace.One(ns + s.from)
		return span{Range: one, listRanges: []keyspace.Range{one}, ns: ns}, nil
	case selectPrefix:
		if err := keyspace.Prefix(s.from, partial); err != nil {
			return span{}, err
		}
		return newSpan(ns, keyspace.Within(ns, s.from), keyspace.IsHidden(s.from)), nil
	case selectRange:
		return s.resolveRange(ns)
	case selectNothing:
	}
	return span{}, fmt.Errorf("%w: the zero Selector", errs.Invalid)
}

func (s Selector) resolveRange(ns string) (span, error) {
	if s.to != "" && s.from >= s.to {
		return span{}, fmt.Errorf("%w: range from %s to %s is empty", errs.Invalid, errs.Quote(s.from), errs.Quote(s.to))
	}
	all := keyspace.Within(ns, "")
	r := keyspace.Range{From: ns + s.from, To: all.To}
	if s.from == "" {
		r.From = all.From
	}
	if s.to != "" {
		r.To = ns + s.to
	}
	if r = all.Intersect(r); r.Empty() {
		return span{}, fmt.Errorf("%w: range from %s to %s is empty", errs.Invalid, errs.Quote(s.from), errs.Quote(s.to))
	}
	return newSpan(ns, r, keyspace.IsHidden(s.from)), nil
}

// newSpan returns the span of the range r in ns. It omits the keys of the library unless named is
// set.
func newSpan(ns string, r keyspace.Range, named bool) span {
	hidden := keyspace.Under(ns + keyspace.Hidden)
	if named || r.Intersect(hidden).Empty() {
		return span{Range: r, listRanges: []keyspace.Range{r}, ns: ns}
	}
	out := span{Range: r, ns: ns, hasHidden: true}
	for _, part := range []keyspace.Range{{From: keyspace.First, To: hidden.From}, {From: hidden.To, To: keyspace.ToEnd}} {
		if part = r.Intersect(part); !part.Empty() {
			out.listRanges = append(out.listRanges, part)
		}
	}
	return out
}

// isHidden reports whether an absolute key is one of the library's own that must be omitted.
func (s *span) isHidden(key []byte) bool {
	return s.hasHidden && strings.HasPrefix(string(key[min(len(s.ns), len(key)):]), keyspace.Hidden)
}
