package retry_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// fakeReader streams three chunks from each member, the first after some time.
type fakeReader struct {
	mu      sync.Mutex
	after   map[fakeAddr]time.Duration // never: it hangs
	failure error                      // instead of chunks
	stuck   bool                       // there is no connection to open a stream on
	ended   map[fakeAddr]bool          // streams whose context has ended before their last chunk
	opened  []fakeAddr
}

func (f *fakeReader) Get(context.Context, string, ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return nil, errors.New("not here")
}

func (f *fakeReader) GetStream(ctx context.Context, _ string, _ ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	member := fakeAddr("a")
	if wire.Via(ctx) != nil {
		member = "b"
	}
	f.mu.Lock()
	f.opened = append(f.opened, member)
	d, failure, stuck := f.after[member], f.failure, f.stuck
	f.mu.Unlock()
	if stuck {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	wire.SentTo(ctx, member)
	if failure != nil {
		return nil, failure
	}
	end := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended[member] = true
	}
	out := make(chan clientv3.RangeStreamResponse, 1)
	go func() { // as client/v3 does it: what is received is handed over whatever becomes of ctx
		defer close(out)
		var first <-chan time.Time
		if d >= 0 {
			timer := time.NewTimer(d)
			defer timer.Stop()
			first = timer.C
		}
		select {
		case <-first:
		case <-ctx.Done():
			end()
			return
		}
		for i := range int64(3) {
			if ctx.Err() != nil {
				end()
				return
			}
			out <- clientv3.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Count: i, Header: &pb.ResponseHeader{}}}
		}
	}()
	return out, nil
}

func TestReader_StreamsFromFirstResponder(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for name, test := range map[string]struct {
		a, b   time.Duration
		opened []fakeAddr
		took   time.Duration
		ended  map[fakeAddr]bool
	}{
		"the first is quick":      {0, 0, []fakeAddr{"a"}, 0, map[fakeAddr]bool{}},
		"the first hangs":         {never, s, []fakeAddr{"a", "b"}, 2 * s, map[fakeAddr]bool{"a": true}},
		"the first is slow":       {3 * s, never, []fakeAddr{"a", "b"}, 3 * s, map[fakeAddr]bool{"b": true}},
		"both at the same moment": {2 * s, s, []fakeAddr{"a", "b"}, 2 * s, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
				h := newHedged(nil)
				f := &fakeReader{after: map[fakeAddr]time.Duration{"a": test.a, "b": test.b}, ended: map[fakeAddr]bool{}}
				ctx, stop := context.WithCancel(t.Context())
				chunks, err := retry.NewReader(h.Engine, read, f).GetStream(ctx, "k")
				require.NoError(t, err)
				assert.Equal(t, test.took, time.Since(h.began))
				for i := range int64(3) {
					chunk := <-chunks
					require.NoError(t, chunk.Err())
					assert.Equal(t, i, chunk.Count)
				}
				_, more := <-chunks
				assert.False(t, more)
				stop()
				synctest.Wait()
				assert.Equal(t, test.opened, f.opened)
				if test.ended != nil {
					assert.Equal(t, test.ended, f.ended)
				}
			})
		})
	}
}

func TestReader_LeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeReader{after: map[fakeAddr]time.Duration{"a": 0}, ended: map[fakeAddr]bool{}}
		h := newHedged(nil)
		ctx, stop := context.WithCancel(t.Context())
		chunks, err := retry.NewReader(h.Engine, read, f).GetStream(ctx, "k")
		require.NoError(t, err)
		<-chunks
		stop() // the reader goes in the middle
		for range chunks {
		}

		f.mu.Lock()
		f.after["a"], f.after["b"] = never, never
		f.mu.Unlock()
		_, err = retry.NewReader(h.Engine, read, f).GetStream(within(t, 5*time.Second), "k")
		require.ErrorIs(t, err, context.DeadlineExceeded)

		synctest.Wait()
		f.failure = errors.New("no streams here")
		_, err = retry.NewReader(h.Engine, read, f).GetStream(t.Context(), "k")
		assert.Equal(t, f.failure, err)
	})
}

func TestReader_EndsWhileStreamIsOpened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(nil)
		reader := retry.NewReader(h.Engine, read, &fakeReader{stuck: true})
		_, err := reader.GetStream(within(t, 5*time.Second), "k")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, time.Since(h.began))

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = reader.GetStream(ctx, "k")
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 6*time.Second, time.Since(h.began))
	})
}
