package scan_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// retryTimes makes each step up to n times, each time for up to a second.
func retryTimes(n int) scan.RetryFunc {
	return func(ctx context.Context, step func(context.Context) error) error {
		var err error
		for range n {
			attempt, stop := context.WithTimeout(ctx, time.Second)
			err = step(attempt)
			stop()
			if err == nil || ctx.Err() != nil || errors.Is(err, rpctypes.ErrCompacted) {
				return err
			}
		}
		return err
	}
}

func someKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("app/%04d", i)
	}
	return keys
}

// collect runs the loop to its end, and checks what holds for each chunk.
func collect(t *testing.T, s *scan.Scan) (keys []string, err error) {
	t.Helper()
	for kvs, err := range s.Chunks(t.Context()) {
		if err != nil {
			require.Empty(t, kvs)
			return keys, err
		}
		require.NotEmpty(t, kvs)
		require.NotZero(t, s.Revision())
		for _, kv := range kvs {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys, nil
}

func app() []keyspace.Range { return keyspace.Spans("", "app/") }

func TestScan_StreamsEachRangeAtOneRevision(t *testing.T) {
	t.Parallel()
	keys := append([]string{".etcdkit/once", "\x00", "A"}, someKeys(25)...)
	slices.Sort(keys)
	m := &fakeServer{keys: keys, rev: 42, chunk: 10}
	s := scan.New(m.reader(), nil, keyspace.Spans("", ""), scan.Options{})
	got, err := collect(t, s)
	require.NoError(t, err)
	assert.Equal(t, append([]string{"\x00", "A"}, someKeys(25)...), got)
	assert.EqualValues(t, 42, s.Revision())

	require.Len(t, m.ranges, 1, "one read to pin the revision")
	assert.True(t, m.ranges[0].CountOnly)
	assert.Empty(t, m.ranges[0].RangeEnd, "of one key, which costs the server nothing to count")
	assert.False(t, m.ranges[0].Serializable)
	require.Len(t, m.streams, 2)
	for _, r := range m.streams {
		assert.EqualValues(t, 42, r.Revision)
	}
	m.open.Wait()
}

func TestScan_GivenRevisionIsNotLookedUp(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(3), rev: 42, chunk: 10}
	s := scan.New(m.reader(), nil, app(), scan.Options{Rev: 17, KeysOnly: true})
	for kvs, err := range s.Chunks(t.Context()) {
		require.NoError(t, err)
		for _, kv := range kvs {
			assert.Empty(t, kv.Value)
		}
	}
	assert.Empty(t, m.ranges)
	assert.EqualValues(t, 17, m.streams[0].Revision)
	assert.EqualValues(t, 17, s.Revision())
}

func TestScan_EmptyRangeHasRevision(t *testing.T) {
	t.Parallel()
	for _, o := range []scan.Options{{}, {Limit: 5}, {Reverse: true}} {
		m := &fakeServer{rev: 42, chunk: 10}
		s := scan.New(m.reader(), nil, app(), o)
		got, err := collect(t, s)
		require.NoError(t, err)
		assert.Empty(t, got)
		assert.EqualValues(t, 42, s.Revision())
	}
}

func TestScan_BrokenStreamResumesAfterLastKey(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(35), rev: 42, chunk: 10}
	m.onChunk = func(_ context.Context, sent int, _ string) error {
		if sent == 1 {
			m.rev++ // writes go on
			return errUnavailable
		}
		return nil
	}
	s := scan.New(m.reader(), retryTimes(2), app(), scan.Options{})
	got, err := collect(t, s)
	require.NoError(t, err)
	assert.Equal(t, someKeys(35), got)
	require.Len(t, m.streams, 4)
	for i, r := range m.streams {
		assert.EqualValues(t, 42, r.Revision)
		if i > 0 {
			assert.Equal(t, fmt.Sprintf("app/%04d\x00", i*10-1), string(r.Key))
		}
	}
	m.open.Wait()
}

// fakeNoStreamKV is a KV that some mock would be.
type fakeNoStreamKV struct{ clientv3.KV }

func (fakeNoStreamKV) GetStream(context.Context, string, ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	return nil, nil //nolint:nilnil // as mocks do
}

func TestScan_NilStreamFallsBackToPages(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(5), rev: 42, chunk: 5}
	got, err := collect(t, scan.New(fakeNoStreamKV{m.reader()}, nil, app(), scan.Options{}))
	require.NoError(t, err)
	assert.Equal(t, someKeys(5), got)
}

func TestScan_StreamErrorAfterLastChunkIsIgnored(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(5), rev: 42, chunk: 5}
	broken := &fakeLateFailureKV{member: m}
	got, err := collect(t, scan.New(broken, nil, app(), scan.Options{}))
	require.NoError(t, err)
	assert.Equal(t, someKeys(5), got)
	assert.Len(t, m.streams, 1)
}

func TestScan_UnimplementedStreamFallsBackToPages(t *testing.T) {
	t.Parallel()
	refuse := func(*pb.RangeRequest) error { return errUnimplemented }
	for _, c := range []struct {
		name string
		with func(*fakeServer)
	}{
		{"refused when it is opened", func(m *fakeServer) { m.onStream = refuse }},
		{"refused by the first answer", func(m *fakeServer) {
			m.onChunk = func(context.Context, int, string) error { return errUnimplemented }
		}},
		{"ended before its last chunk", func(m *fakeServer) {
			m.onChunk = func(_ context.Context, sent int, _ string) error {
				if sent == 1 {
					return io.EOF
				}
				return nil
			}
		}},
		{"refused half-way by a limit on messages", func(m *fakeServer) {
			m.onChunk = func(_ context.Context, sent int, _ string) error {
				if sent == 1 {
					return errTooLarge
				}
				return nil
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := &fakeServer{keys: append([]string{"."}, someKeys(35)...), rev: 42, chunk: 10}
			c.with(m)
			s := scan.New(m.reader(), nil, keyspace.Spans("", ""), scan.Options{PageSize: 10})
			got, err := collect(t, s)
			require.NoError(t, err)
			assert.Equal(t, m.keys, got)
			assert.LessOrEqual(t, len(m.streams), 2, "a stream that was refused is not tried again")
			for _, r := range m.ranges[1:] {
				assert.EqualValues(t, 42, r.Revision)
			}
			m.open.Wait()
		})
	}
}

func TestScan_HalvesLargePage(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(40), rev: 42}
	m.onRange = func(r *pb.RangeRequest) error {
		if r.Limit > 3 && !r.CountOnly {
			return errTooLarge
		}
		return nil
	}
	s := scan.New(m.reader(), nil, app(), scan.Options{Limit: 33, PageSize: 16})
	got, err := collect(t, s)
	require.NoError(t, err)
	assert.Equal(t, someKeys(33), got)
	assert.Less(t, len(m.ranges), 33, "and does not grow again at once")
}

func TestScan_SingleLargeKeyIsError(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(40), rev: 42}
	m.onRange = func(r *pb.RangeRequest) error {
		if r.Limit > 0 && string(r.Key) <= "app/0007" && string(r.Key)+"~" > "app/0006" && r.Limit > 7 {
			return errTooLarge
		}
		if strings.HasPrefix(string(r.Key), "app/0006") || (string(r.Key) == "app/0007") {
			return errTooLarge
		}
		return nil
	}
	got, err := collect(t, scan.New(m.reader(), nil, app(), scan.Options{Limit: 40, PageSize: 7}))
	require.ErrorContains(t, err, "larger than max")
	assert.Equal(t, someKeys(7), got)
	assert.EqualValues(t, 1, m.ranges[len(m.ranges)-1].Limit)
}

func TestScan_OverloadedServerKeepsPageSize(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(40), rev: 42}
	m.onRange = func(*pb.RangeRequest) error { return rpctypes.ErrGRPCRequestTooManyRequests }
	_, err := collect(t, scan.New(m.reader(), nil, app(), scan.Options{Limit: 10}))
	require.ErrorIs(t, err, rpctypes.ErrTooManyRequests)
	assert.Len(t, m.ranges, 1)
}

func TestScan_GrowsSmallPages(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(9000), rev: 42}
	m.onStream = func(*pb.RangeRequest) error { return errUnimplemented }
	got, err := collect(t, scan.New(m.reader(), nil, app(), scan.Options{}))
	require.NoError(t, err)
	assert.Equal(t, someKeys(9000), got)
	var limits []int64
	for _, r := range m.ranges[1:] {
		limits = append(limits, r.Limit)
	}
	assert.Equal(t, []int64{500, 1000, 2000, 4000, 5000}, limits)
}

func TestScan_SmallLimitIsOneRequest(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(40), rev: 42}
	s := scan.New(m.reader(), nil, app(), scan.Options{Limit: 10})
	got, err := collect(t, s)
	require.NoError(t, err)
	assert.Equal(t, someKeys(10), got)
	assert.EqualValues(t, 42, s.Revision())
	assert.Len(t, m.ranges, 1)
	assert.Empty(t, m.streams)
}

func TestScan_CompactionBeforeFirstChunkRestarts(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(25), rev: 42, chunk: 10}
	m.onStream = func(r *pb.RangeRequest) error {
		if r.Revision < 44 {
			m.rev++
			return rpctypes.ErrGRPCCompacted
		}
		return nil
	}
	s := scan.New(m.reader(), retryTimes(3), app(), scan.Options{})
	got, err := collect(t, s)
	require.NoError(t, err)
	assert.Equal(t, someKeys(25), got)
	assert.EqualValues(t, 44, s.Revision())
}

func TestScan_RepeatedCompactionIsError(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(25), rev: 42, chunk: 10}
	m.onStream = func(*pb.RangeRequest) error { return rpctypes.ErrGRPCCompacted }
	got, err := collect(t, scan.New(m.reader(), nil, app(), scan.Options{}))
	require.ErrorIs(t, err, errs.Compacted)
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
	assert.Empty(t, got)
	assert.Len(t, m.streams, 4)
}

func TestScan_CompactionOfGivenRevisionIsError(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(25), rev: 42, chunk: 10}
	m.onStream = func(*pb.RangeRequest) error { return rpctypes.ErrGRPCCompacted }
	_, err := collect(t, scan.New(m.reader(), nil, app(), scan.Options{Rev: 7}))
	require.ErrorIs(t, err, errs.Compacted)
	assert.Len(t, m.streams, 1)
}

func TestScan_CompactionAfterFirstChunkIsError(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(25), rev: 42, chunk: 10}
	m.onChunk = func(_ context.Context, sent int, _ string) error {
		if sent == 1 {
			return rpctypes.ErrGRPCCompacted
		}
		return nil
	}
	got, err := collect(t, scan.New(m.reader(), retryTimes(3), app(), scan.Options{}))
	require.ErrorIs(t, err, errs.Compacted)
	assert.Equal(t, someKeys(10), got)
	assert.Len(t, m.streams, 1)
}

func TestScan_EachLoopIsSeparate(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(25), rev: 42, chunk: 10}
	s := scan.New(m.reader(), nil, app(), scan.Options{})
	for want := int64(42); want < 45; want++ {
		got, err := collect(t, s)
		require.NoError(t, err)
		assert.Equal(t, someKeys(25), got)
		assert.Equal(t, want, s.Revision())
		m.rev++
	}
}

func TestScan_BreakEndsStream(t *testing.T) {
	t.Parallel()
	m := &fakeServer{keys: someKeys(1000), rev: 42, chunk: 10}
	s := scan.New(m.reader(), nil, app(), scan.Options{})
	for _, err := range s.Chunks(t.Context()) {
		require.NoError(t, err)
		break
	}
	m.open.Wait()

	assert.Panics(t, func() {
		for _, err := range s.Chunks(t.Context()) {
			panic(err)
		}
	})
	m.open.Wait()
}

func TestScan_EndsWithContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		endsInTheLoop(t, scan.Options{})
		endsInTheLoop(t, scan.Options{Limit: 900})
	})
}

func endsInTheLoop(t *testing.T, o scan.Options) {
	t.Helper()
	m := &fakeServer{keys: someKeys(1000), rev: 42, chunk: 10}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var ends []error
	for _, err := range scan.New(m.reader(), retryTimes(3), app(), o).Chunks(ctx) {
		ends = append(ends, err)
		time.Sleep(time.Hour)
	}
	require.Len(t, ends, 2, "a chunk, and the error")
	require.NoError(t, ends[0])
	require.ErrorIs(t, ends[1], context.DeadlineExceeded)
	m.open.Wait()
}

func TestScan_TimeoutAppliesPerChunk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &fakeServer{keys: someKeys(50), rev: 42, chunk: 10}
		hangs := 0
		m.onChunk = func(ctx context.Context, sent int, _ string) error {
			if sent == 2 && hangs == 0 {
				hangs++
				<-ctx.Done() // the server has gone silent
			}
			return nil
		}
		var got []string
		for kvs, err := range scan.New(m.reader(), retryTimes(2), app(), scan.Options{}).Chunks(t.Context()) {
			require.NoError(t, err)
			time.Sleep(time.Hour) // the consumer's time is its own
			for _, kv := range kvs {
				got = append(got, string(kv.Key))
			}
		}
		assert.Equal(t, someKeys(50), got)
		assert.Len(t, m.streams, 2, "the silent stream was replaced")
		m.open.Wait()
	})
}

func TestScan_SilentServerTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &fakeServer{keys: someKeys(50), rev: 42, chunk: 10}
		m.onChunk = func(ctx context.Context, _ int, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		}
		began := time.Now()
		_, err := collect(t, scan.New(m.reader(), retryTimes(3), app(), scan.Options{}))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 3*time.Second, time.Since(began))
		m.open.Wait()
	})
}

// TestScan_MatchesModel lets streams and pages break at random, and compares with what is there.
func TestScan_MatchesModel(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	for range 2000 {
		m := &fakeServer{rev: 42, chunk: 1 + r.IntN(5)}
		for range r.IntN(40) {
			m.keys = append(m.keys, string([]byte{"./ae\xff\x00"[r.IntN(6)], "./ae\xff\x00"[r.IntN(6)], byte(r.IntN(256))}))
		}
		slices.Sort(m.keys)
		m.keys = slices.Compact(m.keys)
		fault := func() error {
			return []error{nil, nil, nil, errUnavailable, io.EOF, errTooLarge, errUnimplemented}[r.IntN(7)]
		}
		m.onChunk = func(context.Context, int, string) error { return fault() }
		m.onRange = func(r *pb.RangeRequest) error {
			if err := fault(); err != nil && (r.Limit > 1 || !errors.Is(err, errTooLarge)) && !errors.Is(err, errUnimplemented) {
				return err
			}
			return nil
		}
		cut := string([]byte{"./ae\xff"[r.IntN(5)]})
		ranges := []keyspace.Range{{From: "\x00", To: cut}, {From: cut + "a", To: keyspace.ToEnd}}
		o := scan.Options{Limit: int64(r.IntN(3) * r.IntN(20)), Reverse: r.IntN(3) == 0, PageSize: int64(1 + r.IntN(6)), KeysOnly: r.IntN(2) == 0}

		var want []string
		for _, key := range m.keys {
			if ranges[0].Contains(key) || ranges[1].Contains(key) {
				want = append(want, key)
			}
		}
		if o.Reverse {
			slices.Reverse(want)
		}
		if o.Limit > 0 {
			want = want[:min(int64(len(want)), o.Limit)]
		}
		got, err := collect(t, scan.New(m.reader(), retryTimes(1000), ranges, o))
		require.NoError(t, err)
		require.Equal(t, want, got, "%+v of %q in %q", o, m.keys, ranges)
		m.open.Wait()
	}
}
