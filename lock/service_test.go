package lock_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// service calls the lock and election service of an etcd server, which clients in other languages
// use. Names are absolute, and the lease is the caller's. Its messages are part of the server's
// module, so they are encoded by hand here.
type service struct {
	cli   *clientv3.Client
	lease uint64
}

func newService(t *testing.T, cli *clientv3.Client) *service {
	t.Helper()
	grant, err := cli.Grant(t.Context(), 60)
	require.NoError(t, err)
	return &service{cli, uint64(grant.ID)}
}

// raw is a codec for encoded messages.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

// call sends a request of the given fields, numbered from 1, and returns the fields of the response
// that are bytes.
func (s *service) call(ctx context.Context, method string, fields ...any) (map[protowire.Number][]byte, error) {
	var in, out []byte
	for i, f := range fields {
		number := protowire.Number(i + 1)
		switch f := f.(type) {
		case uint64:
			in = protowire.AppendVarint(protowire.AppendTag(in, number, protowire.VarintType), f)
		case string:
			in = protowire.AppendString(protowire.AppendTag(in, number, protowire.BytesType), f)
		}
	}
	if err := s.cli.ActiveConnection().Invoke(ctx, method, in, &out, grpc.ForceCodec(raw{})); err != nil {
		return nil, err
	}
	response := map[protowire.Number][]byte{}
	for len(out) > 0 {
		number, kind, n := protowire.ConsumeTag(out)
		size := protowire.ConsumeFieldValue(number, kind, out[n:])
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		if kind == protowire.BytesType {
			response[number], _ = protowire.ConsumeBytes(out[n:])
		}
		out = out[n+size:]
	}
	return response, nil
}

// lock waits for the lock of a name and returns the key that unlocks it.
func (s *service) lock(ctx context.Context, name string) (key string, err error) {
	fields, err := s.call(ctx, "/v3lockpb.Lock/Lock", name, s.lease)
	return string(fields[2]), err
}

func (s *service) unlock(ctx context.Context, key string) error {
	_, err := s.call(ctx, "/v3lockpb.Lock/Unlock", key)
	return err
}

// campaign waits to be elected and returns the leadership to resign.
func (s *service) campaign(ctx context.Context, name, value string) (leadership string, err error) {
	fields, err := s.call(ctx, "/v3electionpb.Election/Campaign", name, s.lease, value)
	return string(fields[2]), err
}

func (s *service) resign(ctx context.Context, leadership string) error {
	_, err := s.call(ctx, "/v3electionpb.Election/Resign", leadership)
	return err
}

func TestMutex_ExcludesEtcdLockService(t *testing.T) {
	t.Parallel()
	name := strings.TrimSuffix(etcdtest.Prefix(t), "/")
	l, p := newLocker(t, "", lock.WithDir(""))
	theirs := newService(t, p.cli)

	h := mustLock(t, l.Mutex(name))
	late := waiting(func() (string, error) { return theirs.lock(timely(t), name) })
	queued(t, p.cli, name+"/", 2)
	mustRelease(t, h)
	locked := got(t, late)
	require.NoError(t, locked.err)
	assert.Equal(t, keysUnder(t, p.cli, name+"/"), []string{locked.v})
	_, err := l.Mutex(name).TryLock(t.Context())
	require.ErrorIs(t, err, lock.ErrLocked)
	next := waiting(func() (*lock.Held, error) { return l.Mutex(name).Lock(timely(t)) })
	queued(t, p.cli, name+"/", 2)
	require.NoError(t, theirs.unlock(timely(t), locked.v))
	r := got(t, next)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), h.Token())
	mustRelease(t, r.v)
}

func TestElection_SharesNameWithEtcdElectionService(t *testing.T) {
	t.Parallel()
	name := strings.TrimSuffix(etcdtest.Prefix(t), "/")
	l, p := newLocker(t, "", lock.WithDir(""))
	e, theirs := l.Election(name), newService(t, p.cli)

	leader := mustLead(t, e, "ours")
	late := waiting(func() (string, error) { return theirs.campaign(timely(t), name, "theirs") })
	queued(t, p.cli, name+"/", 2)
	require.NoError(t, leader.Release(t.Context()))
	elected := got(t, late)
	require.NoError(t, elected.err)
	now, err := e.Leader(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "theirs", now.Value)
	next := waiting(func() (*lock.Leadership, error) { return e.Campaign(timely(t), "ours again") })
	queued(t, p.cli, name+"/", 2)
	require.NoError(t, theirs.resign(timely(t), elected.v))
	r := got(t, next)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), now.Token)
	require.NoError(t, r.v.Release(t.Context()))
}
