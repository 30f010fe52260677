package kv

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Limits are limits of the cluster that this package checks before it sends a request. Its errors
// state the size and the limit, whereas etcd has three different errors for this.
type Limits struct {
	// RequestBytes is the maximum size of a request, with all its keys and values:
	// --max-request-bytes. Default: 1.5 MiB.
	RequestBytes int
	// TxnOps is the maximum number of operations, and of comparisons, in a transaction:
	// --max-txn-ops. Default: 128.
	TxnOps int
	// KeyBytes is the maximum length of a key, including the namespace. etcd has no such limit, but
	// a long key uses memory on every member. Default: 4 KiB.
	KeyBytes int
}

const (
	defaultRequestBytes = 3 << 19
	defaultTxnOps       = 128
	defaultKeyBytes     = 4 << 10

	// requestOverhead is the size of a request in etcd's log beside its keys and values. Each
	// operation of a transaction adds opOverhead. Both are lower bounds: etcd itself refuses a
	// request that exceeds the limit by a few bytes.
	requestOverhead = 16
	opOverhead      = 8
)

func (l Limits) withDefaults() Limits {
	if l.RequestBytes == 0 {
		l.RequestBytes = defaultRequestBytes
	}
	if l.TxnOps == 0 {
		l.TxnOps = defaultTxnOps
	}
	if l.KeyBytes == 0 {
		l.KeyBytes = defaultKeyBytes
	}
	return l
}

// Validate returns an error that matches [ErrInvalid] if a limit is negative.
func (l Limits) Validate() error {
	if l.RequestBytes < 0 || l.TxnOps < 0 || l.KeyBytes < 0 {
		return fmt.Errorf("%w: limits: a negative limit", errs.Invalid)
	}
	return nil
}

// request returns an error if a request with n bytes of keys and values is too large.
func (l Limits) request(n int) error {
	if n += requestOverhead; n > l.RequestBytes {
		return fmt.Errorf("%w: the request is %d bytes, the limit is %d", errs.TooLarge, n, l.RequestBytes)
	}
	return nil
}

// guardBytes returns the size that guards add to a request. Each comparison is sent twice: once to
// guard the write, and once to find the guard that failed.
func guardBytes(guards []Guard) (n int) {
	for _, g := range guards {
		for i := range g.compares {
			c := &g.compares[i]
			n += 2 * (len(c.KeyBytes()) + len(c.GetCompare().GetRangeEnd()) + len(c.ValueBytes()) + opOverhead)
		}
	}
	return n
}

// ops returns an error if a transaction of n operations exceeds room.
func (l Limits) ops(n, room int) error {
	if n <= room {
		return nil
	}
	if room < l.TxnOps {
		return fmt.Errorf("%w: %d operations or compares in a transaction, where the limit of %d leaves %d", errs.TooLarge, n, l.TxnOps, max(room, 0))
	}
	return fmt.Errorf("%w: %d operations or compares in one transaction, the limit is %d", errs.TooLarge, n, l.TxnOps)
}

// checkTTL returns an error for a TTL that etcd would change to its minimum or refuse.
func checkTTL(d time.Duration) error {
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

// RetryPolicy configures how often and at what interval a call is repeated, if repeating it is
// safe. Intervals grow exponentially and have full jitter. The calls of a store, and of those
// derived from it, share a retry budget; over a client of etcdkit.Open or etcdkit.Harden, all calls
// of the client share one. Repeats are limited to a tenth of the calls, plus an initial allowance.
// One repeat of a call whose connection was lost does not count against the budget. Waiting for the
// election of a leader, and repeats that determine the outcome of a conditional write, count
// neither as attempts nor against the budget; they end with the deadline of the call. An attempt is
// never canceled because it is slow, but a second one may be sent in parallel; see the package
// documentation.
type RetryPolicy struct {
	// MaxAttempts is the maximum number of attempts, including the first. If it is 1, nothing is
	// repeated and slow calls are not sent twice. A parallel attempt at another member does not
	// count. Default: 3.
	MaxAttempts int `json:"maxAttempts,omitempty"`
	// BaseDelay is the maximum of the first interval. It doubles up to MaxDelay. Values below 1 ms
	// mean 1 ms. Default: 100 ms.
	BaseDelay time.Duration `json:"baseDelay,omitempty"`
	// MaxDelay is the maximum interval. Default: 2 s.
	MaxDelay time.Duration `json:"maxDelay,omitempty"`
}

// Validate returns an error that matches [ErrInvalid] and lists every invalid field, or nil.
func (p RetryPolicy) Validate() error { return retry.Policy(p).Validate() }

// policyJSON is the JSON form of a policy.
type policyJSON struct {
	MaxAttempts int    `json:"maxAttempts,omitempty"`
	BaseDelay   string `json:"baseDelay,omitempty"`
	MaxDelay    string `json:"maxDelay,omitempty"`
}

// MarshalJSON encodes delays in the form "100ms".
func (p RetryPolicy) MarshalJSON() ([]byte, error) {
	out := policyJSON{MaxAttempts: p.MaxAttempts}
	if p.BaseDelay != 0 {
		out.BaseDelay = p.BaseDelay.String()
	}
	if p.MaxDelay != 0 {
		out.MaxDelay = p.MaxDelay.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON decodes delays in the form "100ms". It returns an error for unknown fields.
func (p *RetryPolicy) UnmarshalJSON(b []byte) error {
	var in policyJSON
	if err := strictJSON(b, &in); err != nil {
		return fmt.Errorf("%w: retry policy: %w", errs.Invalid, err)
	}
	base, err1 := duration("baseDelay", in.BaseDelay)
	longest, err2 := duration("maxDelay", in.MaxDelay)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	*p = RetryPolicy{MaxAttempts: in.MaxAttempts, BaseDelay: base, MaxDelay: longest}
	return nil
}

func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%w: retry policy: %s: %w", errs.Invalid, name, err)
	}
	return d, nil
}
