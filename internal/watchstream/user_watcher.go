package watchstream

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// userWatcher is a transport over a Watcher of the user, which it uses as it is and does not close.
type userWatcher struct {
	clientv3.Watcher

	tracker *progressTracker
}

// watch opens a watch and forwards its responses. It cannot tell a refusal from a broken stream.
func (w userWatcher) watch(ctx context.Context, wg *sync.WaitGroup, spec Spec, start Start) <-chan Response {
	in := w.Watch(clientv3.WithRequireLeader(ctx), spec.From, spec.clientOptions(start)...)
	out := make(chan Response)
	wg.Go(func() { // ends with ctx or with the watch
		defer close(out)
		for {
			var resp clientv3.WatchResponse
			var ok bool
			select {
			case resp, ok = <-in:
			case <-ctx.Done():
				return
			}
			if !ok {
				return
			}
			select {
			case out <- w.response(&resp):
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

func (w userWatcher) response(resp *clientv3.WatchResponse) Response {
	out := Response{
		Header: resp.Header, created: resp.Created, Events: resp.Events, compactRevision: resp.CompactRevision, err: resp.Err(),
	}
	if out.IsProgress() {
		out.CompleteAt = w.tracker.recordResponse()
	}
	return out
}

// requestProgress requests progress on the stream of the watches, which client/v3 selects by the
// metadata of ctx.
func (w userWatcher) requestProgress(ctx context.Context) error {
	w.tracker.recordRequest()
	return w.RequestProgress(clientv3.WithRequireLeader(ctx))
}

func (w userWatcher) progressTracker() *progressTracker { return w.tracker }

func (userWatcher) peer() string { return "" }

func (userWatcher) allowReceive() {}

// Close does nothing, because the Watcher belongs to the user.
func (userWatcher) Close() error { return nil }
