package watchstream

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
	responses chan Response
	id        int64             // set by the confirmation
	fragments []*clientv3.Event // of a revision that is not complete yet
}

// deliver delivers progress, and the events of complete revisions, fragment by fragment. It reports
// whether the watch takes them. completeAt is the time that a progress report
// proves.
func (w *streamWatch) deliver(resp *pb.WatchResponse, completeAt time.Time) bool {
	if len(resp.GetEvents()) == 0 && (len(w.fragments) > 0 || resp.GetFragment()) {
		// not progress: inside a batch
		return w.send(Response{Header: resp.GetHeader(), Fragment: true})
	}
	out := Response{Header: resp.GetHeader(), Events: append(w.fragments, resp.GetEvents()...), CompleteAt: completeAt}
	w.fragments = nil
	if resp.GetFragment() {
		// may continue in the next fragment
		last := out.Events[len(out.Events)-1].Kv.GetModRevision()
		complete := len(out.Events)
		for complete > 0 && out.Events[complete-1].Kv.GetModRevision() == last {
			complete--
		}
		// cloned, so that the delivered events can be freed
		w.fragments = slices.Clone(out.Events[complete:])
		out.Events, out.Fragment = out.Events[:complete], true
	}
	return w.send(out)
}

// send waits until the watch has room for resp. It returns false if the watch ends first.
func (w *streamWatch) send(resp Response) bool {
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
func (w *streamWatch) finish(resp Response) {
	w.send(resp)
	close(w.responses)
}
