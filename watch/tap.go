package watch

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// queued is how many answers may wait for a watch. Then its stream waits, and so does etcd.
const queued = 16

// tap is one watch on a pipe.
type tap struct {
	ctx   context.Context //nolint:containedctx // the life of the watch
	ch    chan answer
	id    int64             // known once it is confirmed
	parts []*clientv3.Event // of a revision that comes in fragments
}

// put hands over progress, and the events of revisions that are complete, fragment by fragment. It reports whether the watch
// takes them. asOf is that of progress.
func (t *tap) put(resp *pb.WatchResponse, asOf time.Time) bool {
	if len(resp.GetEvents()) == 0 && (len(t.parts) > 0 || resp.GetFragment()) {
		return t.send(answer{header: resp.GetHeader(), partial: true}) // progress in the middle of a batch is none
	}
	a := answer{header: resp.GetHeader(), events: append(t.parts, resp.GetEvents()...), asOf: asOf}
	t.parts = nil
	if resp.GetFragment() {
		last := a.events[len(a.events)-1].Kv.GetModRevision() // may go on in the next fragment
		whole := len(a.events)
		for whole > 0 && a.events[whole-1].Kv.GetModRevision() == last {
			whole--
		}
		t.parts = slices.Clone(a.events[whole:]) // alone, so that what is handed over can be freed
		a.events, a.partial = a.events[:whole], true
	}
	return t.send(a)
}

// send waits until the watch has room, and reports whether it wants the answer still.
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

// end is the last answer.
func (t *tap) end(a answer) {
	t.send(a)
	close(t.ch)
}
