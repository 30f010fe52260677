package wire

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// NewLeaseID returns a random lease ID. If the client chooses the ID, a repeated grant does not
// create a second lease: etcd returns an error because the lease exists.
func NewLeaseID() clientv3.LeaseID {
	var b [8]byte
	_, _ = rand.Read(b[:])                                     // never fails
	id := int64(binary.BigEndian.Uint64(b[:]) & math.MaxInt64) // the mask keeps it positive
	return clientv3.LeaseID(max(id, 1))
}

// FormatLeaseID returns a lease ID in hexadecimal, as etcdctl prints it.
func FormatLeaseID(id clientv3.LeaseID) string { return strconv.FormatInt(int64(id), 16) }

// CheckTTL returns an error for a TTL that etcd would raise to its minimum or refuse.
func CheckTTL(d time.Duration) error {
	switch {
	case d <= 0:
		return fmt.Errorf("%w: TTL %v: it must be positive (a server with default timing grants 2s at least)", errs.Invalid, d)
	case d < time.Second:
		return fmt.Errorf("%w: TTL %v: etcd counts in seconds (a server with default timing grants 2s at least)", errs.Invalid, d)
	case d.Seconds() > clientv3.MaxLeaseTTL:
		return fmt.Errorf("%w: TTL %v: the limit is %d seconds", errs.TooLarge, d, int64(clientv3.MaxLeaseTTL))
	}
	return nil
}

// Grant requests a lease with the given ID once. It returns the TTL that the server granted, which
// may be longer than ttl. If the lease exists, because an earlier attempt with the same ID has
// created it, Grant renews it, so that its full TTL remains. If cli.Lease is not that of client/v3,
// Grant uses it; it chooses the ID itself, and a repeated grant creates a second lease: see
// [GrantRepeats].
func Grant(ctx context.Context, cli *clientv3.Client, id clientv3.LeaseID, ttl time.Duration) (clientv3.LeaseID, time.Duration, error) {
	seconds := Seconds(ttl)
	if !GrantRepeats(cli) {
		resp, err := cli.Grant(ctx, seconds)
		if err != nil {
			return 0, 0, err
		}
		return resp.ID, time.Duration(resp.TTL) * time.Second, nil
	}
	resp, err := clientv3.RetryLeaseClient(cli).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(id), TTL: seconds}, grpc.WaitForReady(true))
	switch err = rpctypes.Error(err); {
	case errors.Is(err, rpctypes.ErrLeaseExist):
		alive, err := cli.KeepAliveOnce(ctx, id)
		if err != nil {
			return 0, 0, err
		}
		return id, time.Duration(alive.TTL) * time.Second, nil
	case err != nil:
		return 0, 0, clientv3.ContextError(ctx, err)
	}
	return clientv3.LeaseID(resp.GetID()), time.Duration(resp.GetTTL()) * time.Second, nil
}

// GrantRepeats reports whether [Grant] can be repeated with the same ID without creating a second
// lease.
func GrantRepeats(cli *clientv3.Client) bool {
	return cli.ActiveConnection() != nil && isClientLease(cli.Lease)
}

// BasedLease is a decorator of this module over a Lease.
type BasedLease interface{ BaseLease() clientv3.Lease }

// isClientLease reports whether l is the Lease of client/v3, or a decorator of this module over it.
func isClientLease(l clientv3.Lease) bool {
	if b, ok := l.(BasedLease); ok {
		l = b.BaseLease()
	}
	return l != nil && reflect.TypeOf(l).String() == "*clientv3.lessor"
}

// Seconds returns ttl in whole seconds, the unit of etcd, rounded up.
func Seconds(ttl time.Duration) int64 {
	seconds := int64(ttl / time.Second)
	if ttl%time.Second > 0 {
		seconds++
	}
	return seconds
}
