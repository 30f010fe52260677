package watchstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// transport is a connection to the server: a stream of this package, or a Watcher of the user.
type transport interface {
	// watch requests a watch that lasts until ctx ends. It blocks while there is no connection.
	// Goroutines that outlive the call are added to wg and end with ctx.
	watch(ctx context.Context, wg *sync.WaitGroup, spec Spec, start Start) <-chan Response
	// requestProgress requests a progress report for all watches.
	requestProgress(ctx context.Context) error
	// progressTracker returns the progress requests.
	progressTracker() *progressTracker
	// peer returns the address of the server, or "" if it is unknown.
	peer() string
	// allowReceive allows one more response to be received, if the transport is paced.
	allowReceive()
	Close() error
}

// Spec identifies what a server-side watch delivers. Requests with equal keys share one.
type Spec struct {
	From, To              string // the range of keys
	PrevValue             bool
	PutsOnly, DeletesOnly bool
}

// Start is where a server-side watch starts, and how it is delivered.
type Start struct {
	Rev int64 // the first revision to deliver, or 0 for now

	// Fragments makes etcd split responses larger than 2 MiB. It costs etcd time quadratic in the
	// number of events, so it is requested only after a response has exceeded the maximum size.
	Fragments bool
}

// createRequest returns the request that creates a watch.
func (spec Spec) createRequest(start Start) *pb.WatchRequest {
	r := &pb.WatchCreateRequest{Key: []byte(spec.From), StartRevision: start.Rev, Fragment: start.Fragments, PrevKv: spec.PrevValue}
	if spec.To != keyspace.After(spec.From) {
		r.RangeEnd = []byte(spec.To)
	}
	if spec.PutsOnly {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
	}
	if spec.DeletesOnly {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

// clientOptions returns the options that open the watch with client/v3.
func (spec Spec) clientOptions(start Start) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithCreatedNotify(), clientv3.WithRev(start.Rev)}
	if start.Fragments {
		opts = append(opts, clientv3.WithFragment())
	}
	if spec.To != keyspace.After(spec.From) {
		opts = append(opts, clientv3.WithRange(spec.To))
	}
	if spec.PrevValue {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if spec.PutsOnly {
		opts = append(opts, clientv3.WithFilterDelete())
	}
	if spec.DeletesOnly {
		opts = append(opts, clientv3.WithFilterPut())
	}
	return opts
}

// Response is one response of etcd to one watch.
type Response struct {
	Header   *pb.ResponseHeader
	created  bool // the watch is open
	Fragment bool // a fragment, with the complete revisions only; may have no events
	Events   []*clientv3.Event
	// of progress: every change made by then was delivered; zero if unknown
	CompleteAt time.Time
	// the oldest revision that etcd still has, if the watch needs older ones
	compactRevision int64
	err             error // the error with which the watch ended
}

// EndError returns the error with which the watch ended, or nil if it continues. ok is false if the
// channel was closed.
func (r *Response) EndError(ok bool) error {
	switch {
	case !ok:
		return ErrEnded
	case r.compactRevision > 0:
		return &CompactionError{r.compactRevision}
	}
	return r.err
}

// checkConfirmation returns an error unless r is the confirmation of the watch. It must be called
// with the first response of a watch.
func (r *Response) checkConfirmation(ok bool) error {
	switch err := r.EndError(ok); {
	case err != nil && ok && r.compactRevision == 0 && r.Header != nil:
		return &RefusedError{err}
	case err != nil:
		return err
	case !r.created || r.Header.GetRevision() == 0:
		return fmt.Errorf("%w: the first response does not confirm the watch", ErrEnded)
	}
	return nil
}

// IsProgress reports whether r is a progress report: nothing else has changed up to its revision.
func (r *Response) IsProgress() bool {
	return r.err == nil && !r.created && !r.Fragment && len(r.Events) == 0 && r.Header.GetRevision() != 0
}

// noWatch is the watch ID of responses that do not belong to a single watch: refusals, and progress
// of all watches on the stream.
const noWatch = clientv3.InvalidWatchID

// cancelResponse returns the response with which etcd cancels or refuses a watch.
func cancelResponse(resp *pb.WatchResponse) Response {
	out := Response{Header: resp.GetHeader(), compactRevision: resp.GetCompactRevision(), err: ErrEnded}
	switch cause := resp.GetCancelReason(); {
	case out.compactRevision > 0:
		out.err = rpctypes.ErrCompacted
	case cause != "":
		out.err = rpctypes.Error(errors.New(cause))
	}
	return out
}

// largerThanMax is part of gRPC's error for a message that exceeds the maximum size.
const largerThanMax = "larger than max"

// IsOversized reports whether a stream broke because a message exceeded the client's maximum size.
func IsOversized(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), largerThanMax)
}

// ParseOversized returns the size of a response that exceeded the maximum, and the maximum. They
// are 0 if unknown.
func ParseOversized(err error) (size int64, limit int) {
	_, sizes, _ := strings.Cut(retry.Message(err), largerThanMax)
	_, _ = fmt.Sscanf(sizes, " (%d vs. %d)", &size, &limit)
	return size, limit
}
