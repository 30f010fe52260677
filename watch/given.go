package watch

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// given is a source over a Watcher of the user, which it uses as it is and does not close.
type given struct {
	clientv3.Watcher

	asks *progressRequests
}

// watch opens a watch and forwards its responses. It cannot tell a refusal from a broken stream.
func (g given) watch(ctx context.Context, wg *sync.WaitGroup, k hubKey, at start) <-chan answer {
	in := g.Watch(clientv3.WithRequireLeader(ctx), k.from, k.options(at)...)
	out := make(chan answer)
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
			case out <- g.answerOf(&resp):
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

func (g given) answerOf(resp *clientv3.WatchResponse) answer {
	a := answer{
		header: resp.Header, created: resp.Created, events: resp.Events, compacted: resp.CompactRevision, err: resp.Err(),
	}
	if a.progress() {
		a.asOf = g.asks.answer()
	}
	return a
}

// progress requests progress on the stream of the watches, which client/v3 selects by the metadata
// of ctx.
func (g given) progress(ctx context.Context) error {
	g.asks.add()
	return g.RequestProgress(clientv3.WithRequireLeader(ctx))
}

func (g given) requests() *progressRequests { return g.asks }

func (given) peer() string { return "" }

func (given) more() {}

// Close does nothing, because the Watcher belongs to the user.
func (given) Close() error { return nil }

// options returns the options that open the watch with client/v3.
func (k hubKey) options(at start) []clientv3.OpOption {
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
