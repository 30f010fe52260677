package watch_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeWatch is one server-side watch.
type fakeWatch struct {
	*fakeEtcd

	ctx      context.Context
	out      chan clientv3.WatchResponse
	from, to string
	noPut    bool
	noDelete bool
	prev     bool
	next     int64
	lag      int64
	mute     bool
	asked    bool
	end      *watchEnd
	kick     chan struct{}
	last     clientv3.WatchResponse
}

type watchEnd struct{ err error }

func (f *fakeWatch) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// Watch opens a watch, as client/v3 does: it returns when the server has answered.
func (w *fakeEtcd) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, opts...)
	field := reflect.ValueOf(op)
	f := &fakeWatch{
		fakeEtcd: w, ctx: ctx, out: make(chan clientv3.WatchResponse, 1), from: key, to: string(op.RangeBytes()),
		noPut: field.FieldByName("filterPut").Bool(), noDelete: field.FieldByName("filterDelete").Bool(),
		prev: field.FieldByName("prevKV").Bool(), kick: make(chan struct{}, 1),
	}
	select {
	case <-time.NewTimer(time.Millisecond).C:
	case <-ctx.Done():
	}
	w.mu.Lock()
	w.opened++
	mute := w.mute || w.injectsFault(0.2)
	var refused error
	switch {
	case w.refuse != nil:
		refused = w.refuse(w.opened)
	case w.refuseNow && op.Rev() == 0:
		refused = rpctypes.ErrNoLeader
	case w.injectsFault(0.5):
		refused = w.anyError()
	}
	if mute {
		w.mu.Unlock()
		<-ctx.Done()
		close(f.out)
		return f.out
	}
	if refused != nil {
		w.mu.Unlock()
		f.out <- failed(refused)
		close(f.out)
		return f.out
	}
	f.lag = w.lagging
	if w.injectsFault(0.3) {
		f.lag = w.rng.Int64N(4)
	}
	here := max(w.rev-f.lag, 1)
	hdr := w.header()
	hdr.Revision = here
	if f.lag > 0 && w.lagTerm && w.term > w.floor {
		hdr.RaftTerm--
	}
	f.next = op.Rev()
	f.mute = f.next != 0 && (w.muteReplays || w.tooLarge && !field.FieldByName("fragment").Bool())
	replay := f.next != 0 && f.next <= here
	if f.next == 0 {
		f.next = here + 1
	}
	w.watches[f] = struct{}{}
	w.mu.Unlock()
	f.out <- clientv3.WatchResponse{Header: hdr, Created: true}
	go f.serve(replay)
	return f.out
}

// anyError returns an error that breaks a watch and has no other meaning.
func (w *fakeEtcd) anyError() error {
	all := []error{
		rpctypes.ErrNoLeader, status.Error(codes.Unavailable, "EOF"), status.Error(codes.Internal, "stream terminated by RST_STREAM"),
		errors.New("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"), status.Error(codes.Canceled, "context canceled"),
	}
	return all[w.rng.IntN(len(all))]
}

// failed returns a last response whose Err is err. The error itself is in a private field of
// client/v3, but a cancellation with a reason has the same Err.
func failed(err error) clientv3.WatchResponse {
	return clientv3.WatchResponse{Header: &pb.ResponseHeader{}, Canceled: true, CancelReason: err.Error()}
}

// serve sends the responses of the watch.
func (f *fakeWatch) serve(replay bool) {
	defer close(f.out)
	defer func() {
		f.mu.Lock()
		delete(f.watches, f)
		f.mu.Unlock()
	}()
	if replay {
		select {
		case <-time.NewTimer(100 * time.Millisecond).C:
		case <-f.ctx.Done():
			return
		}
	}
	for {
		resp, last, ok := f.answer()
		if ok {
			select {
			case f.out <- resp:
			case <-f.ctx.Done():
				return
			}
			if last {
				return
			}
			continue
		}
		if last {
			return
		}
		select {
		case <-f.kick:
		case <-f.ctx.Done():
			return
		}
	}
}

// answer returns the next response of the watch, if there is one.
func (f *fakeWatch) answer() (resp clientv3.WatchResponse, last, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.end != nil && f.end.err == nil:
		return resp, true, false
	case f.end != nil:
		return failed(f.end.err), true, true
	case f.mute || f.fakeEtcd.mute:
		return resp, false, false
	case f.next < f.compact:
		return clientv3.WatchResponse{Header: f.header(), Canceled: true, CompactRevision: f.compact}, true, true
	}
	here := max(f.rev-f.lag, 1)
	if f.next <= here {
		if f.injectsFault(0.3) {
			switch f.rng.IntN(4) {
			case 0:
				return resp, true, false
			case 1:
				return failed(f.anyError()), true, true
			case 2:
				f.mute = true
				return resp, false, false
			case 3:
				if len(f.last.Events) > 0 {
					return f.last, false, true // a repetition
				}
			}
		}
		return f.events(here)
	}
	if f.asked {
		f.asked = false
		hdr := f.header()
		hdr.Revision = here
		return clientv3.WatchResponse{Header: hdr}, false, true
	}
	return resp, false, false
}

// events returns the changes of a few revisions, with a header of the current revision.
func (f *fakeWatch) events(here int64) (resp clientv3.WatchResponse, last, ok bool) {
	resp.Header = f.header()
	few := 1 + f.rng.IntN(5)
	if f.shuffle {
		few = 5
	}
	for ; few > 0 && f.next <= here; few-- {
		for _, ev := range f.history[f.next] {
			if !inside(string(ev.Kv.Key), f.from, f.to) || f.noPut && ev.Type == clientv3.EventTypePut || f.noDelete && ev.Type == clientv3.EventTypeDelete {
				continue
			}
			if !f.prev {
				ev = &clientv3.Event{Type: ev.Type, Kv: ev.Kv}
			}
			resp.Events = append(resp.Events, ev)
		}
		f.next++
	}
	if len(resp.Events) == 0 {
		return f.skip()
	}
	if f.shuffle {
		slices.Reverse(resp.Events)
	}
	f.last = resp
	return resp, false, true
}

// skip returns no response, and makes serve call answer again.
func (f *fakeWatch) skip() (resp clientv3.WatchResponse, last, ok bool) {
	f.wake()
	return resp, false, false
}

// RequestProgress requests progress of all watches.
func (w *fakeEtcd) RequestProgress(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	for f := range w.watches {
		f.asked = true
		f.wake()
	}
	return nil
}

// Close must not be called, because the Watcher belongs to the user.
func (w *fakeEtcd) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return nil
}
