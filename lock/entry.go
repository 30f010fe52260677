package lock

import (
	"cmp"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// entry is one key of a queue.
type entry struct {
	key               string // the whole key, with the namespace
	createRev, modRev int64
	lease             clientv3.LeaseID
	value             string
}

func newEntry(kv *mvccpb.KeyValue) entry {
	return entry{
		key: string(kv.GetKey()), createRev: kv.GetCreateRevision(), modRev: kv.GetModRevision(),
		lease: clientv3.LeaseID(kv.GetLease()), value: string(kv.GetValue()),
	}
}

// The suffix of a key tells the kind of its waiter. Keys of mutexes, write locks and elections have
// none. A suffix follows a number in base 36, which contains no "-".
const (
	readerSuffix        = "-r"
	permitSuffix        = "-s"
	barrierSuffix       = "-b" // of a barrier
	doubleBarrierSuffix = "-d" // of a double barrier
)

func (e *entry) hasSuffix(suffix string) bool { return strings.HasSuffix(e.key, suffix) }

// owner returns the name of the entry's owner, or its lease if the owner gave no name.
func (e *entry) owner() string {
	value := e.value
	if e.hasSuffix(permitSuffix) {
		_, value, _ = strings.Cut(value, " ") // after the weight
	}
	if value != "" {
		return value
	}
	return "lease " + wire.FormatLeaseID(e.lease)
}

// token returns the mod revision of the entry of a mutex or a write lock. It is the fencing token
// of the owner or, if the owner had to wait, a lower bound of it. token returns 0 for an entry of a
// shared hold.
func (e *entry) token() int64 {
	if e.hasSuffix(readerSuffix) || e.hasSuffix(permitSuffix) {
		return 0
	}
	return e.modRev
}

// compareNewestFirst orders entries by create revision, descending. Entries with the same one are
// ordered by key; this package creates none.
func compareNewestFirst(a, b entry) int {
	return cmp.Or(cmp.Compare(b.createRev, a.createRev), strings.Compare(b.key, a.key))
}

// queuePage is the result of one read of a queue. All entries are of one revision.
type queuePage struct {
	entries  []entry  // the direct children of the prefix that were read
	nested   []string // keys of longer names that were read
	complete bool     // the read returned every key below the prefix
	rev      int64
}

// oldest returns the oldest entry of the queue, or nil if it is not known or does not exist. The
// entries must be sorted newest first.
func (p *queuePage) oldest() *entry {
	if p == nil || !p.complete || len(p.entries) == 0 {
		return nil
	}
	return &p.entries[len(p.entries)-1]
}

// mayHaveNewer reports whether the queue may have an entry that was created after rev. The page
// must hold the newest keys, at most exclusivePageSize. If all of them are keys of longer names,
// such an entry may be among the keys that were not read.
func (p *queuePage) mayHaveNewer(rev int64) bool {
	for i := range p.entries {
		if p.entries[i].createRev > rev {
			return true
		}
	}
	return !p.complete && len(p.nested) == exclusivePageSize
}

// parsePage parses the response to a read of the keys below prefix. It omits ownKey. rev is the
// revision of the read, or 0 if the caller does not need it.
func parsePage(prefix, ownKey string, rev int64, r *pb.RangeResponse) *queuePage {
	p := &queuePage{complete: !r.GetMore(), rev: rev}
	for _, kv := range r.GetKvs() {
		switch key := string(kv.GetKey()); {
		case key == ownKey:
		case isDirectChild(prefix, key):
			p.entries = append(p.entries, newEntry(kv))
		default:
			p.nested = append(p.nested, key)
		}
	}
	return p
}

// oldestOp returns the operation that reads the keys below prefix, oldest first. limit bounds their
// number; 0 means no limit.
func oldestOp(prefix string, limit int64) clientv3.Op {
	return clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithLimit(limit),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
}

// newestOp returns the operation that reads the keys below prefix, newest first. limit bounds their
// number; 0 means no limit.
func newestOp(prefix string, limit int64, more ...clientv3.OpOption) clientv3.Op {
	return clientv3.OpGet(prefix, append(more, clientv3.WithPrefix(), clientv3.WithLimit(limit),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend))...)
}
