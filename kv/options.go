package kv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
)

// Option is an option of a [Store].
type Option func(*settings)

// settings holds the options of a store.
type settings struct {
	namespace    string
	retry        RetryPolicy
	logger       *slog.Logger
	limits       Limits
	readTimeout  time.Duration
	writeTimeout time.Duration
	scope        *scope.Scope // of the client; nil without one
}

// WithNamespace places all keys of the store below dir. Default: no namespace.
func WithNamespace(dir string) Option { return func(s *settings) { s.namespace = dir } }

// WithRetry sets how often and at what interval calls are repeated. Default: see [RetryPolicy].
func WithRetry(p RetryPolicy) Option { return func(s *settings) { s.retry = p } }

// WithLogger sets the logger for retries and for writes, which are logged at level Debug. Values
// are logged as their length and a short hash. Default: [slog.Default], from level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *settings) { s.logger = l } }

// WithLimits sets the limits that are checked before a request is sent. Use it if the settings of
// the cluster differ from etcd's defaults. A field of 0 keeps its default.
func WithLimits(l Limits) Option { return func(s *settings) { s.limits = l } }

// WithTimeouts bounds calls whose context has no deadline. Default: 5 s for reads and 10 s for
// writes; 0 keeps the default. A member that has lost its quorum refuses a write after 7 s. If
// write is shorter, the call ends before that, and the outcome is unknown.
func WithTimeouts(read, write time.Duration) Option {
	return func(s *settings) { s.readTimeout, s.writeTimeout = read, write }
}

var _ = scope.ProvideOption(func(sc *scope.Scope) Option { return func(s *settings) { s.scope = sc } })

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

	// requestOverhead is the size of a request in etcd's log without its keys and values. Each
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

// ops returns an error if a transaction of n operations exceeds room.
func (l Limits) ops(n, room int) error {
	if n <= room {
		return nil
	}
	if room < l.TxnOps {
		return fmt.Errorf("%w: %d operations or compares in a transaction, of which the limit of %d leaves %d", errs.TooLarge, n, l.TxnOps, max(room, 0))
	}
	return fmt.Errorf("%w: %d operations or compares in one transaction, the limit is %d", errs.TooLarge, n, l.TxnOps)
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

// strictJSON decodes exactly one JSON value, and returns an error for unknown fields. Package strict
// checks more, but would add its YAML decoder to every program that uses kv.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}
