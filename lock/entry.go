package lock

import (
	"cmp"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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

// Marks at the end of the keys of waiters for anything but a mutex: what comes before is a number of base 36, which has
// no "-".
const (
	markReader = "-r"
	markPermit = "-s"
	markParty  = "-b" // of a barrier
	markDouble = "-d" // of a double barrier
)

func (e *entry) marked(mark string) bool { return strings.HasSuffix(e.key, mark) }

// owner is what an entry says about its owner.
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

// token is the revision that the entry's owner has at least as its fencing token; shared holds have none.
func (e *entry) token() int64 {
	if e.marked(markReader) || e.marked(markPermit) {
		return 0
	}
	return e.mod
}

// newestFirst is the order of a page: by create revision, descending. Two keys of one transaction, which none of ours are,
// stand by name.
func newestFirst(a, b entry) int {
	return cmp.Or(cmp.Compare(b.create, a.create), strings.Compare(b.key, a.key))
}

// page is what a read of a queue tells: entries of one revision, in one order.
type page struct {
	entries  []entry  // the direct children of the prefix that were read
	nested   []string // keys below longer names that were read
	complete bool     // there are no others
	rev      int64
}

// oldest is the first in the queue, nil if that is not known.
func (p *page) oldest() *entry {
	if p == nil || !p.complete || len(p.entries) == 0 {
		return nil
	}
	return &p.entries[len(p.entries)-1]
}

// parsePage parses an answer to a read of the keys below prefix. The key own is left out.
func parsePage(prefix, own string, rev int64, r *pb.RangeResponse) *page {
	p := &page{complete: !r.GetMore(), rev: rev}
	for _, kv := range r.GetKvs() {
		switch key := string(kv.GetKey()); {
		case key == own:
		case direct(prefix, key):
			p.entries = append(p.entries, entryOf(kv))
		default:
			p.nested = append(p.nested, key)
		}
	}
	return p
}

// oldest reads the first few keys below prefix, the oldest first; 0: all of them.
func oldest(prefix string, limit int64) clientv3.Op {
	return clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithLimit(limit),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
}

// newest reads the last few keys below prefix, the newest first; 0: all of them.
func newest(prefix string, limit int64, more ...clientv3.OpOption) clientv3.Op {
	return clientv3.OpGet(prefix, append(more, clientv3.WithPrefix(), clientv3.WithLimit(limit),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend))...)
}
