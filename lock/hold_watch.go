package lock

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// watchThreshold is the age at which a hold begins to watch its key. Short holds need no watch, and
// holders of longer ones learn soon that a third party has deleted their key.
const watchThreshold = 250 * time.Millisecond

// watch begins to watch the own key.
func (h *hold) watch() {
	l := h.w.q.l
	l.keyWatcher.Watch(keywatch.Target{Key: h.w.key}, h)
	h.mu.Lock()
	h.watchTimer = nil
	h.watched = h.cause == nil
	ended := !h.watched
	h.mu.Unlock()
	if ended {
		l.keyWatcher.Unwatch(keywatch.Target{Key: h.w.key}, h)
	}
}

// unwatch ends the watch of the own key, or prevents its start. The watcher must not call it.
func (h *hold) unwatch() {
	h.mu.Lock()
	if h.watchTimer != nil {
		h.watchTimer.Stop()
	}
	watched := h.watched
	h.watched = false
	h.mu.Unlock()
	if watched {
		h.w.q.l.keyWatcher.Unwatch(keywatch.Target{Key: h.w.key}, h)
	}
}

// Opened implements [keywatch.Handler]. Changes before the watch was open are not delivered, so the
// key is read if there may have been any.
func (h *hold) Opened(rev int64) {
	if rev > h.seenRev {
		h.w.q.l.confirmHold(h)
	}
}

// Changed implements [keywatch.Handler].
func (h *hold) Changed(ev *mvccpb.Event) {
	switch {
	case ev.Kv.GetModRevision() <= h.modRev:
	case ev.Type == mvccpb.Event_DELETE || ev.Kv.GetCreateRevision() != h.w.createRev:
		h.markLost(errKeyDeleted)
	case !h.isUnchanged(ev.Kv):
		h.markLost(errOverwritten)
	}
}

// Lost implements [keywatch.Handler]. It does nothing: the watcher opens the watch again.
func (h *hold) Lost(error) {}

// isUnchanged reports whether the key matches the guard of this hold and is on its lease. A key
// with a local queue is put again for each hold, and by nothing else. A key without one may be put
// by Proclaim.
func (h *hold) isUnchanged(kv *mvccpb.KeyValue) bool {
	return kv.GetLease() == int64(h.w.session.ID()) && (!h.local || kv.GetModRevision() == h.modRev)
}

// maxConfirmWorkers is how many holds read their keys at the same time, as they do after a stream
// has failed.
const maxConfirmWorkers = 8

// confirmHold makes the hold read its key in the background.
func (l *Locker) confirmHold(h *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unconfirmed = append(l.unconfirmed, h)
	if l.confirmWorkers < maxConfirmWorkers && !l.closed {
		l.confirmWorkers++
		l.background.Go(l.confirmHolds)
	}
}

// confirmHolds confirms one hold after the other until none is left.
func (l *Locker) confirmHolds() {
	for {
		l.mu.Lock()
		if len(l.unconfirmed) == 0 || l.closed {
			l.confirmWorkers--
			l.mu.Unlock()
			return
		}
		h := l.unconfirmed[0]
		l.unconfirmed = l.unconfirmed[1:]
		l.mu.Unlock()
		h.confirm()
	}
}

// confirm reads the key until etcd answers, the error is permanent, or the hold is over.
func (h *hold) confirm() {
	l := h.w.q.l
	backoffs := newBackoff(maxPollInterval)
	for h.err() == nil && l.ctx.Err() == nil {
		err := h.checkKey(l.ctx)
		if err == nil {
			l.counters.confirmed.Add(1)
			return
		}
		if isPermanent(err) {
			return
		}
		_ = retry.Sleep(l.ctx, backoffs.NextBackOff())
	}
}

// checkKey reads the own key and records a loss. It returns the error of the read.
func (h *hold) checkKey(ctx context.Context) error {
	resp, err := h.w.q.l.read(ctx, "verify", clientv3.OpGet(h.w.key))
	if err != nil {
		return err
	}
	switch kvs := resp.rangeResponse(0).GetKvs(); {
	case len(kvs) == 0 || kvs[0].GetCreateRevision() != h.w.createRev:
		h.markLost(errKeyDeleted)
	case !h.isUnchanged(kvs[0]):
		h.markLost(errOverwritten)
	}
	return nil
}
