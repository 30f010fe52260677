package watch

import (
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// EventType is what happened to a key.
type EventType int

const (
	// Put means that the key was created or changed.
	Put EventType = iota
	// Delete means that the key was deleted, or that its lease expired or was revoked.
	Delete
)

// String returns "put" or "delete".
func (t EventType) String() string {
	switch t {
	case Put:
		return "put"
	case Delete:
		return "delete"
	}
	return "EventType(" + strconv.Itoa(int(t)) + ")"
}

// Event is one change of one key. Watches share events: do not modify them or the bytes of their
// values.
type Event struct {
	Type EventType
	Key  string // relative to the namespace

	// Value is the new value, nil for a Delete. PrevValue is the value before the change if
	// WithPrevValue is given and etcd still has it. Snapshot and Resync batches have no
	// PrevValue.
	Value, PrevValue []byte

	// ModRevision is the revision of the change. CreateRevision and Version are 0 for a Delete.
	ModRevision, CreateRevision, Version int64
	Lease                                clientv3.LeaseID
}

// size estimates the memory of an event in bytes.
func (e *Event) size() int64 {
	const fixed = 128
	return int64(fixed + len(e.Key) + len(e.Value) + len(e.PrevValue))
}

// Kind is where the events of a batch come from.
type Kind int

const (
	// Live is exactly what was committed at Revision. If Folded is not 0, it is the latest change
	// of each key up to Revision.
	Live Kind = iota
	// Snapshot is the current state, as puts.
	Snapshot
	// Resync is the difference between the delivered and the current state, as puts and deletes. It
	// replaces changes that were compacted, that belong to a rewritten history, or that would have
	// cost more to read than a list. If the first batch of a watch with WithSnapshot and WithAfter
	// is a Resync, Progress batches aside, it is the whole state: every key that it does not contain
	// is gone.
	Resync
	// Progress has no events: nothing else has changed up to Revision.
	Progress
)

// String returns "live", "snapshot", "resync" or "progress".
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

// A Batch is the changes of one revision, or what its Kind says. After a batch with More == false,
// every change up to Revision has been delivered: store Revision and start again with
// [WithAfter](Revision).
type Batch struct {
	Kind     Kind
	Revision int64
	Events   []Event // in transaction order; Snapshot and Resync: puts in key order, then deletes
	// More reports whether further batches of the snapshot or resync follow, usually with the same
	// Revision.
	More bool
	// Folded is the number of changes left out by WithCoalescing. If the watch lagged by more than
	// its buffer, it may include changes that a snapshot or an earlier list has already shown.
	Folded int
}

// putEvent returns a key as a Put event. cut is the length of the namespace.
func putEvent(kv *mvccpb.KeyValue, cut int) Event {
	return Event{
		Type: Put, Key: string(kv.GetKey()[cut:]), Value: kv.GetValue(),
		ModRevision: kv.GetModRevision(), CreateRevision: kv.GetCreateRevision(), Version: kv.GetVersion(),
		Lease: clientv3.LeaseID(kv.GetLease()),
	}
}

// newEvent returns an event of etcd as an Event. cut is the length of the namespace.
func newEvent(ev *clientv3.Event, cut int) Event {
	if ev.Type == clientv3.EventTypeDelete {
		return Event{
			Type: Delete, Key: string(ev.Kv.GetKey()[cut:]), PrevValue: ev.PrevKv.GetValue(), ModRevision: ev.Kv.GetModRevision(),
		}
	}
	e := putEvent(ev.Kv, cut)
	e.PrevValue = ev.PrevKv.GetValue()
	return e
}
