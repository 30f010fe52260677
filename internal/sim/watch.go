package sim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

const (
	catchUpInterval = 100 * time.Millisecond // between two rounds for watchers that are behind
	maxBatch        = 1000                   // revisions that one response of a catch-up has
	maxBuffered     = 128                    // responses that a stream holds; etcd's channel has 128 as well
)

// watchStream is one stream of the watch service. The mutex of Sim guards it.
type watchStream struct {
	m        *Member
	key      string // for the order of its requests
	watchers map[int64]*watcher
	nextID   int64
	out      []*pb.WatchResponse
	more     chan struct{} // holds a value if out is not empty
	catching bool          // a catch-up is scheduled
}

// watcher is one watch.
type watcher struct {
	id       int64
	key, end []byte
	next     int64 // the revision that it sees next
	behind   bool  // it has to catch up
	noPut    bool
	noDelete bool
	prevKV   bool
	fragment bool
	progress bool // it gets progress notifications
	quiet    bool // it has seen nothing since the last one
}

// watchServer is the watch service of a member.
type watchServer struct {
	pb.UnimplementedWatchServer

	m *Member
}

// Watch serves one stream: this goroutine receives, a second one sends.
func (s *watchServer) Watch(stream pb.Watch_WatchServer) error {
	m, ctx := s.m, stream.Context()
	ws := &watchStream{m: m, key: caller(ctx), watchers: map[int64]*watcher{}, more: make(chan struct{}, 1)}
	m.sim.mu.Lock()
	watches := m.watches
	watches[ws] = struct{}{}
	m.sim.mu.Unlock()
	defer func() {
		m.sim.mu.Lock()
		delete(watches, ws)
		m.sim.mu.Unlock()
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	received := make(chan error, 1)
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() { ws.send(stream, done) })
	go func() { // ends with the stream, after Watch has returned
		for n := 0; ; n++ {
			r, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			// The requests of one stream stay in their order, which tells clients the IDs of their
			// watches.
			m.sim.arrive(fmt.Sprintf("%s|Watch|%8d", ws.key, n), func() { m.do(func() { ws.handle(stream, r) }) })
		}
	}()
	select {
	case <-received:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send sends what is queued.
func (ws *watchStream) send(stream pb.Watch_WatchServer, done <-chan struct{}) {
	for {
		select {
		case <-ws.more:
		case <-done:
			return
		}
		for {
			ws.m.sim.mu.Lock()
			var r *pb.WatchResponse
			if len(ws.out) > 0 {
				r, ws.out = ws.out[0], ws.out[1:]
			}
			ws.m.sim.mu.Unlock()
			if r == nil {
				break
			}
			if err := stream.Send(r); err != nil {
				return
			}
		}
	}
}

// push queues a response.
func (ws *watchStream) push(r *pb.WatchResponse) {
	if r.Header == nil {
		r.Header = ws.m.header()
	}
	ws.out = append(ws.out, r)
	select {
	case ws.more <- struct{}{}:
	default:
	}
}

// handle carries out a request.
func (ws *watchStream) handle(stream pb.Watch_WatchServer, r *pb.WatchRequest) {
	m := ws.m
	switch {
	case r.GetCreateRequest() != nil:
		m.authorize(stream.Context(), func(err error) { ws.create(r.GetCreateRequest(), err) })
	case r.GetCancelRequest() != nil:
		if id := r.GetCancelRequest().WatchId; ws.watchers[id] != nil {
			delete(ws.watchers, id)
			ws.push(&pb.WatchResponse{WatchId: id, Canceled: true})
		}
	case r.GetProgressRequest() != nil:
		if len(ws.watchers) == 0 {
			return
		}
		for _, w := range ws.watchers {
			if w.behind || m.store.rev < w.next-1 {
				return // no answer while a watcher is behind, or starts in the future
			}
		}
		ws.push(&pb.WatchResponse{WatchId: clientv3.InvalidWatchID})
	}
}

// create adds a watcher, unless the token of its stream was refused.
func (ws *watchStream) create(r *pb.WatchCreateRequest, refused error) {
	m := ws.m
	reject := func(cause string) {
		ws.push(&pb.WatchResponse{WatchId: clientv3.InvalidWatchID, Created: true, Canceled: true, CancelReason: cause})
	}
	w := &watcher{
		id: r.WatchId, key: r.Key, end: r.RangeEnd, next: r.StartRevision, prevKV: r.PrevKv, fragment: r.Fragment,
		progress: r.ProgressNotify, quiet: true,
		noPut:    slices.Contains(r.Filters, pb.WatchCreateRequest_NOPUT),
		noDelete: slices.Contains(r.Filters, pb.WatchCreateRequest_NODELETE),
	}
	if len(w.key) == 0 {
		w.key = []byte{0}
	}
	if w.id == 0 {
		for ws.watchers[ws.nextID] != nil {
			ws.nextID++
		}
		w.id = ws.nextID
		ws.nextID++
	}
	switch {
	case refused != nil:
		reject(refused.Error())
		return
	case r.StartRevision < 0:
		reject(rpctypes.ErrCompacted.Error())
		return
	case ws.watchers[w.id] != nil:
		reject("mvcc: duplicate watch ID provided on the WatchStream")
		return
	case len(w.end) > 0 && (len(w.end) != 1 || w.end[0] != 0) && string(w.key) >= string(w.end):
		reject("mvcc: watcher range is empty")
		return
	}
	if w.next == 0 {
		w.next = m.store.rev + 1
	}
	w.behind = w.next <= m.store.rev
	ws.watchers[w.id] = w
	m.sim.note("%s: %s watches %s from %d (at %d)", m.name, ws.key, keys(r.Key, r.RangeEnd), r.StartRevision, m.store.rev)
	ws.push(&pb.WatchResponse{WatchId: w.id, Created: true})
	if w.behind {
		ws.scheduleCatchUp()
	}
	if w.progress {
		ws.scheduleProgress(w)
	}
}

// scheduleProgress sends progress notifications to a watcher that sees no events.
func (ws *watchStream) scheduleProgress(w *watcher) {
	m := ws.m
	m.after(m.sim.opts.ProgressInterval, func() {
		if _, ok := m.watches[ws]; !ok || ws.watchers[w.id] != w {
			return
		}
		if w.quiet && !w.behind && m.store.rev >= w.next-1 {
			ws.push(&pb.WatchResponse{WatchId: w.id})
		}
		w.quiet = true
		ws.scheduleProgress(w)
	})
}

// ids returns the IDs of the watchers in order.
func (ws *watchStream) ids() []int64 {
	out := make([]int64, 0, len(ws.watchers))
	for id := range ws.watchers {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// publish passes the events of the last revision to the watchers that are up to date.
func (m *Member) publish() {
	for _, ws := range m.streams() {
		for _, id := range ws.ids() {
			w := ws.watchers[id]
			if w.behind || w.next > m.store.rev {
				continue
			}
			if len(ws.out) >= maxBuffered {
				w.behind = true
				ws.scheduleCatchUp()
				continue
			}
			events := w.pick(m.store, m.store.history[m.store.rev])
			w.next = m.store.rev + 1
			if len(events) > 0 {
				ws.respond(w, events)
			}
		}
	}
}

// streams returns the streams of a member in order.
func (m *Member) streams() []*watchStream {
	out := make([]*watchStream, 0, len(m.watches))
	for ws := range m.watches {
		out = append(out, ws)
	}
	slices.SortFunc(out, func(a, b *watchStream) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return 0
	})
	return out
}

// scheduleCatchUp lets the watchers that are behind catch up.
func (ws *watchStream) scheduleCatchUp() {
	if ws.catching {
		return
	}
	ws.catching = true
	ws.m.after(catchUpInterval, func() {
		ws.catching = false
		if _, ok := ws.m.watches[ws]; ok {
			ws.catchUp()
		}
	})
}

func (ws *watchStream) catchUp() {
	st, again := ws.m.store, false
	for _, id := range ws.ids() {
		w := ws.watchers[id]
		switch {
		case !w.behind:
			continue
		case len(ws.out) >= maxBuffered:
			again = true
			continue
		case w.next < st.compacted:
			delete(ws.watchers, id)
			ws.push(&pb.WatchResponse{WatchId: id, Canceled: true, CompactRevision: st.compacted})
			continue
		}
		var events []*mvccpb.Event
		revisions := 0
		for ; w.next <= st.rev && revisions < maxBatch; w.next++ {
			if picked := w.pick(st, st.history[w.next]); len(picked) > 0 {
				events = append(events, picked...)
				revisions++
			}
		}
		w.behind = w.next <= st.rev
		again = again || w.behind
		if len(events) > 0 {
			ws.respond(w, events)
		}
	}
	if again {
		ws.scheduleCatchUp()
	}
}

// pick returns the events of one revision that a watcher gets.
func (w *watcher) pick(st *store, all []*mvccpb.Event) (out []*mvccpb.Event) {
	for _, e := range all {
		if !within(string(e.Kv.Key), w.key, w.end) || w.noPut && e.Type == mvccpb.Event_PUT || w.noDelete && e.Type == mvccpb.Event_DELETE {
			continue
		}
		if w.prevKV {
			if old := st.at(string(e.Kv.Key), e.Kv.ModRevision-1); old != nil && e.Kv.ModRevision-1 >= st.compacted {
				e = &mvccpb.Event{Type: e.Type, Kv: e.Kv, PrevKv: old}
			}
		}
		out = append(out, e)
	}
	return out
}

// respond queues events, in fragments if they are large and the watcher wants that.
func (ws *watchStream) respond(w *watcher, events []*mvccpb.Event) {
	w.quiet = false
	whole := &pb.WatchResponse{Header: ws.m.header(), WatchId: w.id, Events: events}
	if !w.fragment || proto.Size(whole) < maxRequestBytes || len(events) < 2 {
		ws.push(whole)
		return
	}
	for len(events) > 0 {
		part := &pb.WatchResponse{Header: whole.Header, WatchId: w.id, Fragment: true}
		n := 0
		for n < len(events) {
			part.Events = events[:n+1]
			if n > 0 && proto.Size(part) >= maxRequestBytes {
				part.Events = events[:n]
				break
			}
			n++
		}
		events = events[n:]
		part.Fragment = len(events) > 0
		ws.push(part)
	}
}
