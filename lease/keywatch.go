package lease

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// notifier tells when a key changes. It is all that keys want of a watch.
type notifier interface {
	// await returns the revision of a change of the absolute key after the given one, as soon as there is one. Any error
	// that is not the context's means that it cannot tell any more: look at the key, and begin anew from there.
	await(ctx context.Context, key string, after int64) (rev int64, err error)
}

// watchNotifier is a notifier over the client's Watcher, whose watches find their own way over broken connections.
type watchNotifier struct{ clientv3.Watcher }

// errNoMoreNews says that a watch ended for reasons of its own.
var errNoMoreNews = errors.New("the watch has ended")

func (n watchNotifier) await(ctx context.Context, key string, after int64) (int64, error) {
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	for r := range n.Watch(ctx, key, clientv3.WithRev(after+1)) {
		if err := r.Err(); err != nil {
			return 0, err
		}
		if len(r.Events) > 0 {
			return r.Events[len(r.Events)-1].Kv.GetModRevision(), nil
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return 0, errNoMoreNews
}

// deafNotifier is what a client without a Watcher has.
type deafNotifier struct{}

func (deafNotifier) await(ctx context.Context, _ string, _ int64) (int64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// newNotifier returns the notifier of a client.
func newNotifier(cli *clientv3.Client) notifier {
	if cli.Watcher == nil {
		return deafNotifier{}
	}
	return watchNotifier{cli.Watcher}
}
