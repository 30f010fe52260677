package watch

import (
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// EventType says what happened to a key.
type EventType int

const (
	// Put means that the key was created or changed.
	Put EventType = iota
	// Delete means that the key is gone: deleted, or its lease ended.
	Delete
)

// String is "put" or "delete".
func (t EventType) String() string {
	switch t {
	case Put:
		return "put"
	case Delete:
		return "delete"
	}
	return "EventType(" + strconv.Itoa(int(t)) + ")"
}

// Event is one change of one key. Events are shared between watches: do not change them, nor the bytes of their values.
type Event struct {
	Type EventType
	Key  string // relative to the namespace

	// Value is what was put, nil for a Delete. PrevValue is what was there before, with [WithPrevValue], as far as etcd
	// still has it; Snapshot and Resync batches have none.
	Value, PrevValue []byte

	// ModRevision is when it happened. A Delete has neither CreateRevision nor Version.
	ModRevision, CreateRevision, Version int64
	Lease                                clientv3.LeaseID
}

// weight is about how much memory an event holds.
func (e *Event) weight() int64 {
	const fixed = 128
	return int64(fixed + len(e.Key) + len(e.Value) + len(e.PrevValue))
}

// Kind says where the events of a batch come from.
type Kind int

const (
	// Live is exactly what was committed at Revision, or, where Folded is not 0, the latest of what piled up until then.
	Live Kind = iota
	// Snapshot is the current state, as puts.
	Snapshot
	// Resync is the difference, as puts and deletes, between what the watch has told of and the current state: changes
	// were lost to compaction or to a rewritten history, or were costlier to read again. A Resync that comes first, in
	// a watch with WithSnapshot and WithAfter, is the whole state: what it does not name is gone.
	Resync
	// Progress has no events: nothing happened up to Revision.
	Progress
)

// String is "live", "snapshot", "resync" or "progress".
func (k Kind) String() string {
	switch k {
	case Live:
		return "live"
	case Snapshot:
		return "snapshot"
	case Resync:
		return "resync"
	case Progress:
		return "progress"
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// A Batch is one revision's changes. After a batch with More == false everything up to Revision has been delivered: store
// Revision, and start again with [WithAfter](Revision).
type Batch struct {
	Kind     Kind
	Revision int64
	Events   []Event // in the order of the transaction; of a snapshot or resync, in key order, puts before deletes
	More     bool    // a large snapshot or resync comes in several batches, usually of one Revision
	Folded   int     // changes left out by WithCoalescing
}

// put is a key as it is, as an event.
func put(kv *mvccpb.KeyValue, cut int) Event {
	return Event{
		Type: Put, Key: string(kv.GetKey()[cut:]), Value: kv.GetValue(),
		ModRevision: kv.GetModRevision(), CreateRevision: kv.GetCreateRevision(), Version: kv.GetVersion(),
		Lease: clientv3.LeaseID(kv.GetLease()),
	}
}

// convert is an event as etcd sends it, with a key that is cut bytes shorter.
func convert(ev *clientv3.Event, cut int) Event {
	if ev.Type == clientv3.EventTypeDelete {
		return Event{
			Type: Delete, Key: string(ev.Kv.GetKey()[cut:]), PrevValue: ev.PrevKv.GetValue(), ModRevision: ev.Kv.GetModRevision(),
		}
	}
	e := put(ev.Kv, cut)
	e.PrevValue = ev.PrevKv.GetValue()
	return e
}
