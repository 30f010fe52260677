package watch

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// queued is the number of responses that may wait for a watch. Beyond that, its stream waits, and
// so does etcd.
const queued = 16

// tap is one watch on a pipe.
type tap struct {
	ctx   context.Context //nolint:containedctx // ends the watch
	ch    chan answer
	id    int64             // set by the confirmation
	parts []*clientv3.Event // of a revision that is not complete yet
}

// put delivers progress, and the events of complete revisions, fragment by fragment. It reports
// whether the watch takes them. asOf is the time that a progress report proves.
func (t *tap) put(resp *pb.WatchResponse, asOf time.Time) bool {
	if len(resp.GetEvents()) == 0 && (len(t.parts) > 0 || resp.GetFragment()) {
		return t.send(answer{header: resp.GetHeader(), partial: true}) // not progress: inside of a batch
	}
	a := answer{header: resp.GetHeader(), events: append(t.parts, resp.GetEvents()...), asOf: asOf}
	t.parts = nil
	if resp.GetFragment() {
		last := a.events[len(a.events)-1].Kv.GetModRevision() // may continue in the next fragment
		whole := len(a.events)
		for whole > 0 && a.events[whole-1].Kv.GetModRevision() == last {
			whole--
		}
		t.parts = slices.Clone(a.events[whole:]) // cloned, so that the delivered events can be freed
		a.events, a.partial = a.events[:whole], true
	}
	return t.send(a)
}

// send waits until the watch has room for a. It returns false if the watch ends first.
func (t *tap) send(a answer) bool {
	if t.ctx.Err() != nil {
		return false
	}
	select {
	case t.ch <- a:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// end delivers the last answer.
func (t *tap) end(a answer) {
	t.send(a)
	close(t.ch)
}
