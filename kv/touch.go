package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Touch attaches key to a new lease that ends after ttl, as [WithTTL] does, and returns the
// revision of the write, or [ErrNotFound]. The value is kept and not sent; watchers receive a put.
// Touch costs a grant and one RPC; see [WithTTL].
//
// If the response is lost, the outcome is unknown, unless [WithOnce] is given.
func (s *Store) Touch(ctx context.Context, key string, ttl time.Duration, o ...WriteOption) (rev int64, err error) {
	ctx, running := s.observe(ctx, "touch")
	defer func() { running.End(err, rev) }()
	opts, err := collect(o, WriteOption.put, true)
	abs, bad := s.writable(key)
	if err = errors.Join(bad, err, checkTTL(ttl)); err == nil {
		err = errors.Join(s.limits.request(len(abs)+guardBytes(opts.guards)), s.limits.ops(1+opts.extraOps(), s.limits.TxnOps))
	}
	if err == nil && ctx == nil {
		err = fmt.Errorf("%w: nil context", errs.Invalid)
	}
	if err != nil {
		return 0, s.fail("touch", key, err)
	}
	ctx, stop := s.bounded(ctx)
	defer stop()
	s.logWrite(ctx, "touch", key, nil)
	leases := callLeases{core: s.core, op: "touch", key: string(abs)}
	for first := true; ; first = false {
		rev, err = s.touch(ctx, key, abs, ttl, &leases, opts)
		if err == nil || !first || !leases.replace(err) {
			leases.finish(ctx, err, map[time.Duration]int{ttl: 1})
			return rev, err
		}
	}
}

func (s *Store) touch(ctx context.Context, key string, abs []byte, ttl time.Duration, leases *callLeases, o options) (int64, error) {
	lease, err := leases.get(ctx, ttl, 1)
	if err != nil {
		return 0, err
	}
	there := clientv3.Compare(clientv3.CreateRevision(""), ">", 0)
	there.WithKeyBytes(abs)
	put := clientv3.OpPut("", "", clientv3.WithIgnoreValue(), clientv3.WithLease(lease))
	put.WithKeyBytes(abs)
	out, err := s.write(ctx, &mutation{
		op: "touch", key: string(abs), abs: abs, cond: []clientv3.Cmp{there}, then: []clientv3.Op{put},
		guards: o.guards, once: o.once, leased: true,
	})
	switch {
	case err != nil:
		return 0, err
	case !out.applied:
		return 0, s.fail("touch", key, ErrNotFound)
	}
	return out.rev, nil
}
