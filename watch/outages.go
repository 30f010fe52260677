package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/outage"
	"github.com/etcdkit/etcdkit/internal/watchstream"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// outageThreshold is the number of consecutive failed attempts that make an outage. A single
// failure is retried soon at another member, so that the restart of a member is no outage.
const outageThreshold = 2

// outages logs when watches are interrupted and when all continue, with one record each for all
// watches of a Watcher.
type outages struct {
	log *slog.Logger

	mu      sync.Mutex
	failing map[any]struct{} // the server-side watches, replays and lists that fail
	records outage.Log
}

func newOutages(log *slog.Logger) *outages {
	return &outages{log: log, failing: make(map[any]struct{})}
}

// failed records a failed attempt of source. consecutiveFailures counts this one.
func (o *outages) failed(source any, selector string, consecutiveFailures int, err error) {
	if consecutiveFailures < outageThreshold {
		return
	}
	o.mu.Lock()
	o.failing[source] = struct{}{}
	begins, _, _ := o.records.Update(true, time.Now())
	o.mu.Unlock()
	if begins {
		o.log.Warn("watches are interrupted", "selector", selector, "error", err)
	}
}

// ended records that source makes no more attempts. It does not end an outage.
func (o *outages) ended(source any) {
	o.mu.Lock()
	delete(o.failing, source)
	o.mu.Unlock()
}

// succeeded records a successful attempt of source.
func (o *outages) succeeded(source any) {
	o.mu.Lock()
	delete(o.failing, source)
	if len(o.failing) > 0 {
		o.mu.Unlock()
		return
	}
	_, ends, lasted := o.records.Update(false, time.Now())
	o.mu.Unlock()
	if ends {
		o.log.Warn("watches continue", "after", lasted.Round(time.Millisecond))
	}
}

// withConnectionError adds to ErrNoResponse why the client has no connection, if it has none.
func withConnectionError(cli *clientv3.Client, err error) error {
	if !errors.Is(err, watchstream.ErrNoResponse) {
		return err
	}
	if cause := wire.Explain(cli); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
