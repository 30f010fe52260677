package keywatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Intervals and timeouts of a stream.
const (
	idleProbeInterval = 30 * time.Second // ±20 %
	responseTimeout   = 4 * time.Second
)

// stream is one gRPC stream. The watcher's mu guards its fields.
type stream struct {
	pending      []*pb.WatchRequest // requests to send
	wake         chan struct{}
	unconfirmed  []*keyWatch // requested and not yet confirmed, in order: a refusal names no watch
	watches      map[int64]*keyWatch
	waitingSince time.Time // since when a response is due; zero if none is
	lastReceived time.Time
}

var errIdle = errors.New("the stream is not used")

// serve opens a stream with all watches on it, and returns when the stream has ended.
func (w *Watcher) serve() error {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(w.ctx))
	defer cancel(nil)
	defer context.AfterFunc(w.cli.Ctx(), func() { cancel(errs.Closed) })()
	opening := time.AfterFunc(responseTimeout, func() { cancel(errNoResponse) })
	conn, err := pb.NewWatchClient(w.cli.ActiveConnection()).Watch(ctx, wire.CallOptions(w.cli)...)
	opening.Stop()
	if err != nil {
		return streamError(ctx, err)
	}
	s := &stream{wake: make(chan struct{}, 1), watches: map[int64]*keyWatch{}, lastReceived: time.Now()}
	w.mu.Lock()
	w.stream = s
	for _, k := range w.watches {
		s.requestWatch(k)
	}
	w.mu.Unlock()
	w.wg.Go(func() { w.send(ctx, cancel, s, conn) })
	for {
		resp, err := conn.Recv()
		if err == nil {
			err = w.receive(s, resp)
		}
		if err != nil {
			err = streamError(ctx, err)
			cancel(err)
			return err
		}
	}
}

var errNoResponse = fmt.Errorf("%w: the watch stream has not answered for %v", errs.Unavailable, responseTimeout)

// streamError returns why a stream has ended.
func streamError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return rpctypes.Error(err)
}

// send sends the pending requests, probes a quiet stream, and ends one that does not answer or is
// unused.
func (w *Watcher) send(ctx context.Context, cancel context.CancelCauseFunc, s *stream, conn pb.Watch_WatchClient) {
	timer := time.NewTimer(responseTimeout)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		next, err := w.nextAction(s)
		pending := s.pending
		s.pending = nil
		w.mu.Unlock()
		if err != nil {
			cancel(err)
			return
		}
		timer.Reset(next)
		if !sendAll(conn, pending, func() { cancel(errNoResponse) }) {
			return // Recv returns the error
		}
	}
}

// sendAll sends requests. It returns false if a Send fails. Send blocks while the server does not
// read. If a Send takes longer than responseTimeout, sendAll calls onBlocked, which must end the
// stream.
func sendAll(conn pb.Watch_WatchClient, requests []*pb.WatchRequest, onBlocked func()) bool {
	timer := time.AfterFunc(responseTimeout, onBlocked)
	defer timer.Stop()
	for _, req := range requests {
		if conn.Send(req) != nil {
			return false
		}
		timer.Reset(responseTimeout)
	}
	return true
}

// nextAction prepares what is due now, and returns when to call it again. An error ends the stream.
// The caller holds w.mu.
func (w *Watcher) nextAction(s *stream) (next time.Duration, err error) {
	now := time.Now()
	if !s.waitingSince.IsZero() {
		if now.Sub(s.waitingSince) >= responseTimeout {
			return 0, errNoResponse
		}
		return responseTimeout - now.Sub(s.waitingSince), nil
	}
	if len(w.watches) == 0 {
		idleFor := now.Sub(w.idleSince)
		if idleFor >= w.keepOpen {
			return 0, errIdle
		}
		return w.keepOpen - idleFor, nil
	}
	if quiet := now.Sub(s.lastReceived); quiet < w.idleProbeInterval {
		return w.idleProbeInterval - quiet, nil
	}
	for t := range w.watches { // any target; the watch is ended as soon as it is confirmed
		s.requestWatch(&keyWatch{target: t})
		break
	}
	return responseTimeout, nil
}

// requestWatch requests a watch. The caller holds the watcher's mu.
func (s *stream) requestWatch(k *keyWatch) {
	r := &pb.WatchCreateRequest{Key: []byte(k.target.Key)}
	if end := k.target.end(); end != "" {
		r.RangeEnd = []byte(end)
	}
	switch k.target.Filter {
	case Deletions:
		r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
	case Puts:
		r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}
	case Changes:
	}
	s.unconfirmed = append(s.unconfirmed, k)
	if s.waitingSince.IsZero() {
		s.waitingSince = time.Now()
	}
	s.enqueue(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

// cancelWatch ends an open watch. The caller holds the watcher's mu.
func (s *stream) cancelWatch(k *keyWatch) {
	k.open = false
	delete(s.watches, k.id)
	s.enqueue(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: k.id}}})
}

func (s *stream) enqueue(req *pb.WatchRequest) {
	s.pending = append(s.pending, req)
	notify.Token(s.wake)
}

// receive handles one response. An error ends the stream.
func (w *Watcher) receive(s *stream, resp *pb.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.lastReceived = time.Now()
	if !s.waitingSince.IsZero() {
		s.waitingSince = s.lastReceived
	}
	switch {
	case resp.GetCreated():
		return w.confirm(s, resp)
	case resp.GetCanceled():
		if s.watches[resp.GetWatchId()] == nil {
			return nil // we requested it
		}
		return cancelError(resp)
	}
	k := s.watches[resp.GetWatchId()]
	if k == nil {
		return nil // the watch has just ended
	}
	for _, ev := range resp.GetEvents() {
		k.notifyChanged(ev)
	}
	return nil
}

// confirm handles the response to the oldest request for a watch. The caller holds w.mu.
func (w *Watcher) confirm(s *stream, resp *pb.WatchResponse) error {
	if len(s.unconfirmed) == 0 {
		return fmt.Errorf("%w: the server confirmed a watch that was not requested", errs.Unavailable)
	}
	k := s.unconfirmed[0]
	s.unconfirmed = s.unconfirmed[1:]
	if len(s.unconfirmed) == 0 {
		s.waitingSince = time.Time{}
	}
	if resp.GetCanceled() || resp.GetWatchId() == clientv3.InvalidWatchID {
		err := cancelError(resp)
		if !errors.Is(err, errs.Permission) {
			return err // such as an expired token: the next stream has a new one
		}
		if w.watches[k.target] == k {
			delete(w.watches, k.target)
		}
		k.notifyLost(err)
		return nil
	}
	k.id = resp.GetWatchId()
	if len(k.handlers) == 0 {
		s.cancelWatch(k)
		return nil
	}
	s.watches[k.id] = k
	k.notifyOpened(resp.GetHeader().GetRevision())
	return nil
}

// cancelError returns why etcd has ended or refused a watch.
func cancelError(resp *pb.WatchResponse) error {
	cause := resp.GetCancelReason()
	if strings.Contains(cause, rpctypes.ErrPermissionDenied.Error()) {
		return errs.Permission
	}
	return fmt.Errorf("%w: the server ended the watch: %s", errs.Unavailable, cause)
}
