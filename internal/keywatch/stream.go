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
	"github.com/etcdkit/etcdkit/internal/wire"
)

// The times of a stream.
const (
	probeInterval = 30 * time.Second // ±20 %
	answerTimeout = 4 * time.Second
)

// stream is one gRPC stream. The watcher's mu guards its fields.
type stream struct {
	out     []*pb.WatchRequest // requests to send
	wake    chan struct{}
	created []*keyWatch // requested and not yet confirmed, in order: a refusal names no watch
	open    map[int64]*keyWatch
	waiting time.Time // since when a response is due; zero if none is
	heard   time.Time
}

var errIdle = errors.New("nobody watches")

// serve opens a stream with all watches on it, and returns when the stream has ended.
func (w *Watcher) serve() error {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(w.ctx))
	defer cancel(nil)
	defer context.AfterFunc(w.cli.Ctx(), func() { cancel(errs.Closed) })()
	opening := time.AfterFunc(answerTimeout, func() { cancel(errSilent) })
	conn, err := pb.NewWatchClient(w.cli.ActiveConnection()).Watch(ctx, wire.CallOptions(w.cli)...)
	opening.Stop()
	if err != nil {
		return streamError(ctx, err)
	}
	s := &stream{wake: make(chan struct{}, 1), open: map[int64]*keyWatch{}, heard: time.Now()}
	w.mu.Lock()
	w.stream = s
	for _, k := range w.watches {
		s.create(k)
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

var errSilent = fmt.Errorf("%w: the watch stream has not answered for %v", errs.Unavailable, answerTimeout)

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
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		next, err := w.due(s)
		out := s.out
		s.out = nil
		w.mu.Unlock()
		if err != nil {
			cancel(err)
			return
		}
		timer.Reset(next)
		if !sendAll(conn, out, func() { cancel(errSilent) }) {
			return // Recv returns the error
		}
	}
}

// sendAll sends requests and reports whether the stream accepted them. If the server reads nothing,
// Send blocks. After answerTimeout in one Send, sendAll calls silent, which must end the stream.
func sendAll(conn pb.Watch_WatchClient, requests []*pb.WatchRequest, silent func()) bool {
	timer := time.AfterFunc(answerTimeout, silent)
	defer timer.Stop()
	for _, req := range requests {
		if conn.Send(req) != nil {
			return false
		}
		timer.Reset(answerTimeout)
	}
	return true
}

// due prepares what is due now, and returns when to call it again. An error ends the stream. The
// caller holds w.mu.
func (w *Watcher) due(s *stream) (next time.Duration, err error) {
	now := time.Now()
	if !s.waiting.IsZero() {
		if now.Sub(s.waiting) >= answerTimeout {
			return 0, errSilent
		}
		return answerTimeout - now.Sub(s.waiting), nil
	}
	if len(w.watches) == 0 {
		idle := now.Sub(w.idleSince)
		if idle >= w.keepOpen {
			return 0, errIdle
		}
		return w.keepOpen - idle, nil
	}
	if quiet := now.Sub(s.heard); quiet < w.probe {
		return w.probe - quiet, nil
	}
	for t := range w.watches { // any target; the watch is ended as soon as it is confirmed
		s.create(&keyWatch{target: t})
		break
	}
	return answerTimeout, nil
}

// create requests a watch. The caller holds the watcher's mu.
func (s *stream) create(k *keyWatch) {
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
	s.created = append(s.created, k)
	if s.waiting.IsZero() {
		s.waiting = time.Now()
	}
	s.push(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

// cancelWatch ends an open watch. The caller holds the watcher's mu.
func (s *stream) cancelWatch(k *keyWatch) {
	k.open = false
	delete(s.open, k.id)
	s.push(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: k.id}}})
}

func (s *stream) push(req *pb.WatchRequest) {
	s.out = append(s.out, req)
	s.wakeUp()
}

func (s *stream) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// receive handles one response. An error ends the stream.
func (w *Watcher) receive(s *stream, resp *pb.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.heard = time.Now()
	if !s.waiting.IsZero() {
		s.waiting = s.heard
	}
	switch {
	case resp.GetCreated():
		return w.confirm(s, resp)
	case resp.GetCanceled():
		if s.open[resp.GetWatchId()] == nil {
			return nil // we requested it
		}
		return cancelError(resp)
	}
	k := s.open[resp.GetWatchId()]
	if k == nil {
		return nil // the watch has just ended
	}
	for _, ev := range resp.GetEvents() {
		k.changed(ev)
	}
	return nil
}

// confirm handles the response to the oldest request for a watch. The caller holds w.mu.
func (w *Watcher) confirm(s *stream, resp *pb.WatchResponse) error {
	if len(s.created) == 0 {
		return fmt.Errorf("%w: a confirmation of no watch", errs.Unavailable)
	}
	k := s.created[0]
	s.created = s.created[1:]
	if len(s.created) == 0 {
		s.waiting = time.Time{}
	}
	if resp.GetCanceled() || resp.GetWatchId() == clientv3.InvalidWatchID {
		err := cancelError(resp)
		if !errors.Is(err, errs.Permission) {
			return err // such as an expired token: the next stream has a new one
		}
		if w.watches[k.target] == k {
			delete(w.watches, k.target)
		}
		k.lose(err)
		return nil
	}
	k.id = resp.GetWatchId()
	if len(k.handlers) == 0 {
		s.cancelWatch(k)
		return nil
	}
	s.open[k.id] = k
	k.opened(resp.GetHeader().GetRevision())
	return nil
}

// cancelError returns why etcd has ended or refused a watch.
func cancelError(resp *pb.WatchResponse) error {
	reason := resp.GetCancelReason()
	if strings.Contains(reason, rpctypes.ErrPermissionDenied.Error()) {
		return errs.Permission
	}
	return fmt.Errorf("%w: the server ended the watch: %s", errs.Unavailable, reason)
}
