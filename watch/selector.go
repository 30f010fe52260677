package watch

import (
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Selector says which keys to watch. It is comparable; the zero Selector selects nothing and is refused.
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

// Prefix selects the keys that begin with prefix; "" is all keys of the namespace. A prefix that does not end in "/" is
// refused, because "users/4" also selects "users/42", unless [WithPartialPrefix] says that it is meant.
func Prefix(prefix string) Selector { return Selector{kind: selectPrefix, from: prefix} }

// Range selects the keys from, inclusive, to, exclusive, compared bytewise. An empty from is the first key of the
// namespace; an empty to is the end of the namespace.
func Range(from, to string) Selector { return Selector{kind: selectRange, from: from, to: to} }

// String is the key, the prefix with "*" behind it, or "[from, to)".
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

// span is what a selector means below a namespace.
type span struct {
	keyspace.Range // as the server watches it

	lists []keyspace.Range // the same without the library's own keys
	ns    string
	hide  bool // the range reaches into the library's own keys, which are to be left out
}

// resolve checks a selector and finds its range below the namespace ns.
func (s Selector) resolve(ns string, partial bool) (span, error) {
	switch s.kind {
	case selectKey:
		if err := keyspace.Key(s.from, 0); err != nil {
			return span{}, err
		}
		one := keyspace.One(ns + s.from)
		return span{Range: one, lists: []keyspace.Range{one}, ns: ns}, nil
	case selectPrefix:
		if err := keyspace.Prefix(s.from, partial); err != nil {
			return span{}, err
		}
		return between(ns, keyspace.Within(ns, s.from), keyspace.IsHidden(s.from)), nil
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
	return between(ns, r, keyspace.IsHidden(s.from)), nil
}

// between is the range r below ns, without the hidden dir unless it was asked for by name.
func between(ns string, r keyspace.Range, named bool) span {
	hidden := keyspace.Under(ns + keyspace.Hidden)
	if named || r.Intersect(hidden).Empty() {
		return span{Range: r, lists: []keyspace.Range{r}, ns: ns}
	}
	out := span{Range: r, ns: ns, hide: true}
	for _, part := range []keyspace.Range{{From: keyspace.First, To: hidden.From}, {From: hidden.To, To: keyspace.ToEnd}} {
		if part = r.Intersect(part); !part.Empty() {
			out.lists = append(out.lists, part)
		}
	}
	return out
}

// hidden reports whether an absolute key is one of the library's own that nobody asked for.
func (s *span) hidden(key []byte) bool {
	return s.hide && strings.HasPrefix(string(key[min(len(s.ns), len(key)):]), keyspace.Hidden)
}
