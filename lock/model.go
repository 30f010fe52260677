package lock

import (
	"cmp"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/watch"
)

// entry is one key of a queue.
type entry struct {
	key         string // relative to the namespace
	create, mod int64
	lease       clientv3.LeaseID
	value       string
}

func entryOf(kv *mvccpb.KeyValue) entry {
	return entry{
		key: string(kv.GetKey()), create: kv.GetCreateRevision(), mod: kv.GetModRevision(),
		lease: clientv3.LeaseID(kv.GetLease()), value: string(kv.GetValue()),
	}
}

// Marks at the end of the keys of places that are no mutex's: what comes before is a number of base 36, which has no "-".
const (
	markReader = "-r"
	markPermit = "-s"
	markParty  = "-b" // of a barrier
	markDouble = "-d" // of a double barrier
)

func (e *entry) marked(mark string) bool { return strings.HasSuffix(e.key, mark) }

// owner is what an entry says about who stands there.
func (e *entry) owner() string {
	value := e.value
	if e.marked(markPermit) {
		_, value, _ = strings.Cut(value, " ") // after its weight
	}
	if value != "" {
		return value
	}
	return "lease " + hex(e.lease)
}

// token is the fencing token of who stands there; shared holds have none.
func (e *entry) token() int64 {
	if e.marked(markReader) || e.marked(markPermit) {
		return 0
	}
	return e.mod
}

// before is the order of a queue: by create revision. Two keys of one transaction, which none of ours are, stand by name.
func before(a, b entry) int {
	return cmp.Or(cmp.Compare(a.create, b.create), strings.Compare(a.key, b.key))
}

// model is a queue as it stands at some revision: its direct children, in order. The zero model is an empty queue.
type model struct {
	list   []entry
	places map[string]int64 // create revisions by key
	// rewritten is the highest mod revision seen of a key that was put more than once: each local turn is such a put, so
	// that no token handed out to one who came earlier is higher.
	rewritten int64
}

// reset makes it a queue of the given entries.
func (m *model) reset(entries []entry) {
	m.list = slices.Clone(entries)
	slices.SortFunc(m.list, before)
	m.places = make(map[string]int64, len(entries))
	for _, e := range entries {
		m.places[e.key] = e.create
		m.note(e)
	}
}

func (m *model) note(e entry) {
	if e.mod > e.create {
		m.rewritten = max(m.rewritten, e.mod)
	}
}

// apply makes one change, which is newer than all before.
func (m *model) apply(e *watch.Event) {
	was, known := m.places[e.Key]
	if known && (e.Type == watch.Delete || was != e.CreateRevision) {
		if i, ok := m.at(e.Key, was); ok {
			m.list = slices.Delete(m.list, i, i+1)
		}
		delete(m.places, e.Key)
	}
	if e.Type == watch.Delete {
		return
	}
	one := entry{key: e.Key, create: e.CreateRevision, mod: e.ModRevision, lease: e.Lease, value: string(e.Value)}
	m.note(one)
	i, there := m.at(one.key, one.create)
	if there {
		m.list[i] = one
		return
	}
	m.list = slices.Insert(m.list, i, one)
	if m.places == nil {
		m.places = map[string]int64{}
	}
	m.places[one.key] = one.create
}

func (m *model) at(key string, create int64) (int, bool) {
	return slices.BinarySearchFunc(m.list, entry{key: key, create: create}, before)
}

// find returns a key's place and the entries ahead of it, which are read-only.
func (m *model) find(key string) (e entry, ahead []entry, ok bool) {
	create, ok := m.places[key]
	if !ok {
		return entry{}, nil, false
	}
	i, ok := m.at(key, create)
	if !ok {
		return entry{}, nil, false
	}
	return m.list[i], m.list[:i], true
}

// rule says whether a place in a queue is admitted, given those ahead of it, in order. It must depend on them alone, and
// must not take back a yes while they only become fewer: nobody ever gets in front of a key that is there, since create
// revisions only rise, so a yes that was true once stays true for as long as the own key exists. That is what makes a
// grant safe without asking again.
//
// A rule that says no may name a key without a lease that will never leave by itself.
type rule func(ahead []entry, own entry) (yes bool, blocker *entry)

// first admits the first: mutual exclusion.
func first(ahead []entry, _ entry) (bool, *entry) {
	if len(ahead) == 0 {
		return true, nil
	}
	if ahead[0].lease == 0 {
		return false, &ahead[0]
	}
	return false, nil
}
