package watch

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxQueuedResponses is the number of responses that may wait for a watch. Beyond that, its stream
// waits, and so does etcd.
const maxQueuedResponses = 16

// streamWatch is one watch on a stream.
type streamWatch struct {
	ctx       context.Context //nolint:containedctx // ends the watch
	responses chan response
	id        int64             // set by the confirmation
	fragments []*clientv3.Event // of a revision that is not complete yet
}

// deliver delivers progress, and the events of complete revisions, fragment by fragment. It reports
// whether the watch takes them. completeAt is the time that a progress report
// proves.
func (w *streamWatch) deliver(resp *pb.WatchResponse, completeAt time.Time) bool {
	if len(resp.GetEvents()) == 0 && (len(w.fragments) > 0 || resp.GetFragment()) {
		return w.send(response{header: resp.GetHeader(), fragment: true}) // not progress: inside a batch
	}
	out := response{header: resp.GetHeader(), events: append(w.fragments, resp.GetEvents()...), completeAt: completeAt}
	w.fragments = nil
	if resp.GetFragment() {
		last := out.events[len(out.events)-1].Kv.GetModRevision() // may continue in the next fragment
		complete := len(out.events)
		for complete > 0 && out.events[complete-1].Kv.GetModRevision() == last {
			complete--
		}
		w.fragments = slices.Clone(out.events[complete:]) // cloned, so that the delivered events can be freed
		out.events, out.fragment = out.events[:complete], true
	}
	return w.send(out)
}

// send waits until the watch has room for resp. It returns false if the watch ends first.
func (w *streamWatch) send(resp response) bool {
	if w.ctx.Err() != nil {
		return false
	}
	select {
	case w.responses <- resp:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// finish delivers the last response.
func (w *streamWatch) finish(resp response) {
	w.send(resp)
	close(w.responses)
}
