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

// Limits are settings of the cluster that a request is held against before it is sent: an error of this package says
// which limit was passed and by what, where etcd has three different ones.
type Limits struct {
	// RequestBytes is the longest request, with all keys and values in it: --max-request-bytes. Default 1.5 MiB.
	RequestBytes int
	// TxnOps is the largest number of operations, and of compares, in a transaction: --max-txn-ops. Default 128.
	TxnOps int
	// KeyBytes is the longest key, namespace included. etcd has no such limit; a long key costs memory in every member.
	// Default 4 KiB.
	KeyBytes int
}

const (
	defaultRequestBytes = 3 << 19
	defaultTxnOps       = 128
	defaultKeyBytes     = 4 << 10

	// requestOverhead is what etcd's log entry holds beside the keys and values of a request; each operation of a
	// transaction adds opOverhead. Both are low estimates: a request that is a few bytes too long is refused by etcd.
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

// Validate reports what is wrong with the limits; the error matches [ErrInvalid].
func (l Limits) Validate() error {
	if l.RequestBytes < 0 || l.TxnOps < 0 || l.KeyBytes < 0 {
		return fmt.Errorf("%w: limits: a negative limit", errs.Invalid)
	}
	return nil
}

// request checks the size of a request of which n bytes are keys and values.
func (l Limits) request(n int) error {
	if n += requestOverhead; n > l.RequestBytes {
		return fmt.Errorf("%w: the request is %d bytes, the limit is %d", errs.TooLarge, n, l.RequestBytes)
	}
	return nil
}

// guardBytes is what guards add to a request: each compare twice, to hold the write and to tell which guard has failed.
func guardBytes(guards []Guard) (n int) {
	for _, g := range guards {
		for i := range g.compares {
			c := &g.compares[i]
			n += 2 * (len(c.KeyBytes()) + len(c.GetCompare().GetRangeEnd()) + len(c.ValueBytes()) + opOverhead)
		}
	}
	return n
}

// ops checks the number of operations in a transaction for which there is room.
func (l Limits) ops(n, room int) error {
	if n <= room {
		return nil
	}
	if room < l.TxnOps {
		return fmt.Errorf("%w: %d operations or compares in a transaction, where the limit of %d leaves %d", errs.TooLarge, n, l.TxnOps, max(room, 0))
	}
	return fmt.Errorf("%w: %d operations or compares in one transaction, the limit is %d", errs.TooLarge, n, l.TxnOps)
}

// checkTTL refuses what etcd would silently turn into its minimum.
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

// RetryPolicy says how often and at what pace a call is repeated, where repeating it is safe. Waits are exponential with
// full jitter. All calls of a client share a budget: repeats are at most a tenth of its calls, with some to start from.
// One repeat of a call whose connection was lost is outside the budget. Waiting for a leader to be elected, and repeats
// that settle a conditional write, count neither as attempts nor against the budget; they end with the deadline of the
// call. An attempt is never given up because it is slow; a second one may be made beside it, see the package documentation.
type RetryPolicy struct {
	// MaxAttempts counts the first one too. 1 means that nothing is repeated, nor made twice because it is slow. Default 3.
	// A second attempt at another member does not count.
	MaxAttempts int `json:"maxAttempts,omitempty"`
	// BaseDelay is the longest first wait; it doubles up to MaxDelay. Default 100 ms. Less than 1 ms means 1 ms.
	BaseDelay time.Duration `json:"baseDelay,omitempty"`
	// MaxDelay is the longest wait. Default 2 s.
	MaxDelay time.Duration `json:"maxDelay,omitempty"`
}

// Validate reports all that is wrong with the policy; the error matches [ErrInvalid].
func (p RetryPolicy) Validate() error { return retry.Policy(p).Validate() }

// policyJSON is the form of a policy in a file.
type policyJSON struct {
	MaxAttempts int    `json:"maxAttempts,omitempty"`
	BaseDelay   string `json:"baseDelay,omitempty"`
	MaxDelay    string `json:"maxDelay,omitempty"`
}

// MarshalJSON writes the delays as in "100ms".
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

// UnmarshalJSON reads delays as in "100ms". Unknown fields are errors.
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
