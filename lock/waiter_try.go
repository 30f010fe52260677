package lock

import (
	"context"
	"slices"
	"sort"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// enqueueIfEmpty puts the key if the queue is empty. If the transaction finds keys of longer names,
// it is sent again with comparisons that leave them out.
func (w *waiter) enqueueIfEmpty(ctx context.Context) error {
	prefix := w.q.prefix
	limit := int64(exclusivePageSize)
	var nested []string
	for {
		cmps := emptyCompares(prefix, nested)
		if len(cmps) > maxCompares {
			return w.enqueueOrFail(ctx)
		}
		resp, err := w.q.l.commitCreation(ctx, txn{
			op:     "try",
			cmps:   cmps,
			then:   []clientv3.Op{w.putOp(w.value)},
			orElse: []clientv3.Op{oldestOp(prefix, limit), clientv3.OpGet(w.key)},
		})
		if w.recordTry(resp, err) {
			return err
		}
		page := parsePage(prefix, w.key, resp.revision(), resp.rangeResponse(0))
		if len(page.entries) > 0 {
			return w.q.blockedError(w.q.name, &page.entries[0])
		}
		nested = page.nested
		if !page.complete {
			limit = 0 // no limit
		}
	}
}

// recordTry handles the result of a transaction that puts the key if the waiter is admitted, and
// otherwise reads the queue and the key. It reports whether the attempt is decided: by an error, by
// the put, or by a put of an earlier attempt whose answer was lost.
func (w *waiter) recordTry(resp txnResult, err error) bool {
	w.unresolved += int32(resp.unresolved) //nolint:gosec // small
	if err != nil {
		return true
	}
	if resp.Succeeded {
		w.setAdmitted(resp.revision())
		return true
	}
	if kvs := resp.rangeResponse(1).GetKvs(); len(kvs) > 0 {
		w.unresolved = max(w.unresolved-1, 0)
		w.setAdmitted(kvs[0].GetCreateRevision())
		return true
	}
	return false
}

// maxCompares is the largest number of comparisons by which a transaction may find that the queue
// is empty. etcd allows 128.
const maxCompares = 100

// enqueueOrFail replaces enqueueIfEmpty if there are too many longer names. It enqueues, and
// returns an error unless the waiter is granted at once. The key is removed then, as after any
// failure.
func (w *waiter) enqueueOrFail(ctx context.Context) error {
	unlimited := *w.admission
	unlimited.pageSize = 0
	w.admission = &unlimited
	if err := w.enqueueKey(ctx); err != nil {
		return err
	}
	if w.token == 0 {
		return &LockedError{Name: w.q.name}
	}
	return nil
}

// enqueueIfAdmitted puts the key if the waiter is admitted, and otherwise returns an error that
// names the blocker. It first assumes that the queue is empty, and reads it if it is not. The put
// requires that no key was created since the read. The entries that were read can only have become
// fewer.
func (w *waiter) enqueueIfAdmitted(ctx context.Context) error {
	prefix := w.q.prefix
	var readRev int64 // revision of the last read of the queue
	for {
		resp, err := w.q.l.commitCreation(ctx, txn{
			op:     "try",
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(prefix), "<", readRev+1).WithRange(keyspace.End(prefix))},
			then:   []clientv3.Op{w.putOp(w.value)},
			orElse: []clientv3.Op{newestOp(prefix, 0), clientv3.OpGet(w.key)},
		})
		if w.recordTry(resp, err) {
			return err
		}
		if err := w.blockerError(parsePage(prefix, w.key, resp.revision(), resp.rangeResponse(0)).entries); err != nil {
			return err
		}
		readRev = resp.revision()
	}
}

// blockerError returns an error that names the first entry behind which the waiter would not be
// admitted, or nil if it would be admitted at the end of the queue. It may search by bisection,
// because a rule that does not block continues not to block as the entries ahead become fewer.
func (w *waiter) blockerError(ahead []entry) error {
	i := sort.Search(len(ahead), func(i int) bool { // how many of the newest entries must go
		blockers, _ := w.rule(ahead[i:])
		return len(blockers) == 0
	})
	if i == 0 {
		return nil
	}
	if _, permanent := w.rule(ahead[i-1:]); permanent != nil {
		return w.q.l.permanentlyBlockedError(w.q.name, permanent)
	}
	return w.q.l.lockedError(w.q.name, &ahead[i-1])
}

// emptyCompares returns the comparisons that hold if prefix has no direct child. nested are keys
// below prefix that are not direct children: the comparisons cover the gaps between their dirs.
// There is one for each dir and one more.
func emptyCompares(prefix string, nested []string) []clientv3.Cmp {
	dirs := make([]string, 0, len(nested))
	for _, key := range nested {
		end := strings.IndexByte(key[len(prefix):], '/')
		dirs = append(dirs, key[:len(prefix)+end+1])
	}
	slices.Sort(dirs)
	from := prefix
	var compares []clientv3.Cmp
	for _, dir := range slices.Compact(dirs) {
		if from < dir {
			compares = append(compares, compareAbsent(from, dir))
		}
		from = keyspace.End(dir)
	}
	return append(compares, compareAbsent(from, keyspace.End(prefix)))
}

// compareAbsent returns the comparison that holds if no key exists in the range [from, to).
func compareAbsent(from, to string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(from), "=", 0).WithRange(to)
}
