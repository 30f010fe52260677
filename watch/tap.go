package watch

import (
	"context"

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
	parts []*clientv3.Event // of a batch that comes in fragments
}

// put hands over events once they are complete, progress, and word of each fragment.
func (t *tap) put(resp *pb.WatchResponse) {
	if len(t.parts) > 0 && len(resp.GetEvents()) == 0 {
		return // progress in the middle of a batch is none
	}
	if resp.GetFragment() {
		t.parts = append(t.parts, resp.GetEvents()...)
		t.send(answer{header: resp.GetHeader(), partial: true})
		return
	}
	a := answer{header: resp.GetHeader(), events: append(t.parts, resp.GetEvents()...)}
	t.parts = nil
	t.send(a)
}

// send waits until the watch has room, or nobody wants it any more.
func (t *tap) send(a answer) {
	select {
	case t.ch <- a:
	case <-t.ctx.Done():
	}
}

// end is the last answer.
func (t *tap) end(a answer) {
	t.send(a)
	close(t.ch)
}
