package lock

import (
	"context"
	"errors"
)

// Election elects one leader at a time among the candidates of all processes that use the name, in
// the order in which they were enqueued. It is wire-compatible with the Election of
// client/v3/concurrency. An Election is a small value without state of its own, and safe for
// concurrent use.
type Election struct {
	l    *Locker
	kind waiterKind
	err  error
}

// Election returns the election of the given name. It sends nothing. The name follows the rules of
// [Locker.Mutex]. If it is invalid, every call returns [ErrInvalid].
func (l *Locker) Election(name string) *Election {
	_, elections := l.dirs()
	return &Election{
		l: l, kind: waiterKind{name: name, prefix: elections + name + "/", admission: exclusiveAdmission},
		err: errors.Join(l.err, l.checkName(name)),
	}
}

// Leader describes the leader of an election.
type Leader struct {
	Value string // the value of its Campaign or last Proclaim
	Token int64  // its fencing token, the create revision of its key; 0 if there is no leader
}

// Campaign waits until the caller is elected. Each call is a candidate of its own, also within one
// process. Only ctx bounds the wait. It fails as [Mutex.Lock] does, and leaves nothing behind then:
// a candidate whose key or session is gone never wins. It costs one RPC. If it has to wait, it
// costs one more when it is elected, and those of [Mutex.Lock].
//
// Leader and Observe show value to others. It can be the address of this process, for example.
// Release of the [Leadership] resigns.
func (e *Election) Campaign(ctx context.Context, value string) (*Leadership, error) {
	return e.campaign(ctx, value, nil)
}

// campaign implements Campaign. It calls onEnqueued, if not nil, once the key is in the queue.
func (e *Election) campaign(ctx context.Context, value string, onEnqueued func()) (*Leadership, error) {
	kind := e.kind
	kind.value, kind.onEnqueued = value, onEnqueued
	h, err := e.l.acquireHold(ctx, "campaign", &kind, e.err, acquireAlone)
	if err != nil {
		return nil, opError("campaign", e.kind.name, err)
	}
	return &Leadership{&Held{holdMethods{h}}}, nil
}

// Leader returns the current leader, or [ErrNoLeader]. It costs one linearizable RPC, and one more
// if names of other elections lie below this one.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	leader, err := e.leader(ctx)
	if err != nil {
		return Leader{}, opError("leader", e.kind.name, err)
	}
	return leader, nil
}

func (e *Election) leader(ctx context.Context) (Leader, error) {
	if e.err != nil {
		return Leader{}, e.err
	}
	ctx, done, err := e.l.startCall(ctx)
	if err != nil {
		return Leader{}, err
	}
	defer done()
	ctx, stop := withCallTimeout(ctx)
	defer stop()
	oldest, _, err := e.l.readOldest(ctx, e.kind.prefix)
	if err != nil {
		return Leader{}, err
	}
	if oldest == nil {
		return Leader{}, ErrNoLeader
	}
	return newLeader(oldest), nil
}

// newLeader returns the leader of a queue with the given first entry, and the zero Leader for nil.
func newLeader(oldest *entry) Leader {
	if oldest == nil {
		return Leader{}
	}
	return Leader{Value: oldest.value, Token: oldest.createRev}
}

// Leadership is the hold of an elected leader. Release resigns. It has the methods of [Held]; Token
// returns the token of the election.
type Leadership struct{ *Held }

// Proclaim changes the value that others see. The token and the guard do not change. It costs one
// RPC. If etcd does not answer until ctx ends, or within 10 s if ctx has no deadline, the error
// matches [ErrUnknownOutcome]. It returns [ErrLost] if the leadership is lost, also during the
// call. Concurrent calls take effect one after the other.
func (l *Leadership) Proclaim(ctx context.Context, value string) error {
	h, ok := l.hold.(*hold)
	if !ok {
		return opError("proclaim", l.hold.name(), ErrLost)
	}
	if err := h.proclaim(ctx, value); err != nil {
		return opError("proclaim", h.name(), err)
	}
	return nil
}
