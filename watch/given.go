package watch

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// userWatcher is a transport over a Watcher of the user, which it uses as it is and does not close.
type userWatcher struct {
	clientv3.Watcher

	tracker *progressTracker
}

// watch opens a watch and forwards its responses. It cannot tell a refusal from a broken stream.
func (w userWatcher) watch(ctx context.Context, wg *sync.WaitGroup, k watchKey, at startOptions) <-chan response {
	in := w.Watch(clientv3.WithRequireLeader(ctx), k.from, k.clientOptions(at)...)
	out := make(chan response)
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

func (w userWatcher) response(resp *clientv3.WatchResponse) response {
	out := response{
		header: resp.Header, created: resp.Created, events: resp.Events, compactRevision: resp.CompactRevision, err: resp.Err(),
	}
	if out.isProgress() {
		out.completeAt = w.tracker.recordResponse()
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

// clientOptions returns the options that open the watch with client/v3.
func (k watchKey) clientOptions(at startOptions) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithCreatedNotify(), clientv3.WithRev(at.rev)}
	if at.fragments {
		opts = append(opts, clientv3.WithFragment())
	}
	if k.to != keyspace.After(k.from) {
		opts = append(opts, clientv3.WithRange(k.to))
	}
	if k.prev {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if k.puts {
		opts = append(opts, clientv3.WithFilterDelete())
	}
	if k.deletes {
		opts = append(opts, clientv3.WithFilterPut())
	}
	return opts
}
