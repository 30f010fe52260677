package kv

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Options of single calls are typed by what they fit: a ListOption does not compile on Put.
type (
	// ListOption fits List, Keys and Map.
	ListOption interface{ list(*options) }
	// PutOption fits Put, Create, Replace and OpPut.
	PutOption interface{ put(*options) }
	// DeleteOption fits Delete, DeleteAt, DeletePrefix and OpDelete.
	DeleteOption interface{ delete(*options) }
	// UpdateOption fits Update.
	UpdateOption interface{ update(*options) }
	// PrefixOption fits whatever works on a prefix.
	PrefixOption interface {
		ListOption
		DeleteOption
	}
	// LeaseOption fits writes of a value: it says which lease the key is attached to.
	LeaseOption interface {
		PutOption
		UpdateOption
		ofLease()
	}
	// WriteOption fits every write.
	WriteOption interface {
		PutOption
		DeleteOption
		UpdateOption
	}
)

// option is every kind of option; the interfaces above say where each one fits.
type option func(*options)

func (f option) list(o *options)   { f(o) }
func (f option) put(o *options)    { f(o) }
func (f option) delete(o *options) { f(o) }
func (f option) update(o *options) { f(o) }

// leaseOption is an option that fits where no guard does.
type leaseOption struct{ option }

func (leaseOption) ofLease() {}

// options is what the options of one call add up to.
type options struct {
	guards    []Guard
	once      bool
	ttl       time.Duration
	ttlSet    bool
	lease     clientv3.LeaseID
	leaseSet  bool
	sameLease bool
	upsert    bool
	noLease   bool
	skipEqual bool

	partial     bool
	revision    int64
	revisionSet bool
	after       string
	limit       int
	limitSet    bool
	reverse     bool
	// readRevision is told the revision of the listing.
	readRevision *int64

	complaints []error
}

func (o *options) complain(format string, args ...any) {
	o.complaints = append(o.complaints, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
}

// WithGuard makes etcd refuse the write, in the same transaction, once what is held is lost: the error then matches
// [ErrGuard] and the owner's condition. It costs no further RPC. Several guards must all hold.
func WithGuard(g ...Guarded) WriteOption {
	return option(func(o *options) {
		for _, one := range g {
			if one == nil {
				o.complain("WithGuard: nil")
				continue
			}
			guard := one.Guard()
			for i := range guard.compares {
				if len(guard.compares[i].KeyBytes()) == 0 {
					o.complain("WithGuard: a compare without a key")
				}
			}
			o.guards = append(o.guards, guard)
		}
	})
}

// WithOnce makes the outcome of the write known, also when its answer is lost: the transaction puts an operation id
// into a hidden key of this client as well, and is repeated until etcd has said whether that happened. It costs one more
// put in each write, and one lease grant about every 30 seconds in which it is used. See the package documentation.
func WithOnce() WriteOption { return option(func(o *options) { o.once = true }) }

// WithTTL lets etcd delete the key d after the write, unless it is written again before. d is rounded up to whole seconds
// and must be at least 1 s; a server with default timing grants no less than 2 s.
//
// From two minutes on, writes of a client with the same TTL share a lease. A key then lives up to a twentieth longer than d.
// The first write within each twentieth of d, and the first after every 1000, grants a lease: two RPCs. The others cost one.
// Never revoke the lease of such a key, because that deletes other keys, too.
//
// Below two minutes each write grants a lease of its own: two RPCs, and a lease in etcd that ends with its time even if the key
// is overwritten. If the write is refused the lease is revoked, which takes at most half a second, also after the end of the
// context. If the outcome of the grant or the write is unknown, the lease is left to expire. For many keys that live as long
// as a process, a lease.Session is the cheaper way.
//
// In a [Store.Batch] one lease serves all operations of a transaction that have the same TTL.
func WithTTL(d time.Duration) LeaseOption {
	return leaseOption{func(o *options) {
		o.ttl, o.ttlSet = d, true
	}}
}

// WithLease attaches the key to a lease: the key is deleted with it. A lease that does not exist refuses the write.
func WithLease(id clientv3.LeaseID) LeaseOption {
	return leaseOption{func(o *options) {
		o.lease, o.leaseSet = id, true
	}}
}

// WithSameLease keeps the lease that the key is attached to; a plain Put detaches it. A key that is absent is created
// without a lease. Except in Replace it halves the longest value, since the request then holds it twice.
func WithSameLease() LeaseOption { return leaseOption{func(o *options) { o.sameLease = true }} }

// WithUpsert lets Update create a key that is absent: its function is given an entry with the zero value.
func WithUpsert() UpdateOption { return option(func(o *options) { o.upsert = true }) }

// WithSkipEqual lets Update leave a key as it is if the new value equals the stored one: nothing is sent, and Update
// returns the current entry. The lease stays as well, whatever other options say. A [Typed] compares what its codec writes,
// before layers such as those of package codec: two ciphertexts of one value are equal.
func WithSkipEqual() UpdateOption { return option(func(o *options) { o.skipEqual = true }) }

// WithoutLease lets Update detach the key from its lease, which it keeps by default.
func WithoutLease() UpdateOption { return option(func(o *options) { o.noLease = true }) }

// WithReadRevision sets *rev to the revision of the listing, as soon as that is known: before the first entry, or at the end
// of an empty listing. A watch that begins behind it misses nothing.
func WithReadRevision(rev *int64) ListOption {
	return option(func(o *options) {
		if rev == nil {
			o.complain("WithReadRevision: nil")
		}
		o.readRevision = rev
	})
}

// WithRevision lists the state at a revision in the past; ErrCompacted when that is gone. Default: the current one.
func WithRevision(rev int64) ListOption {
	return option(func(o *options) {
		o.revision, o.revisionSet = rev, true
	})
}

// WithAfter starts behind key, which need not exist but lies below the prefix; with [WithReverse], before it.
func WithAfter(key string) ListOption { return option(func(o *options) { o.after = key }) }

// WithLimit ends the listing after n entries.
func WithLimit(n int) ListOption {
	return option(func(o *options) {
		o.limit, o.limitSet = n, true
	})
}

// WithPartialPrefix allows a prefix that does not end in "/", such as "users/4", and "" on a store without a namespace,
// which means every key in etcd.
func WithPartialPrefix() PrefixOption { return option(func(o *options) { o.partial = true }) }

// WithReverse lists from the last key to the first. The server sorts the whole range for each page of it.
func WithReverse() ListOption { return option(func(o *options) { o.reverse = true }) }

func putOptions(opts []PutOption) (options, error) { return collect(opts, PutOption.put, true) }
func deleteOptions(opts []DeleteOption) (options, error) {
	return collect(opts, DeleteOption.delete, true)
}

func updateOptions(opts []UpdateOption) (options, error) {
	return collect(opts, UpdateOption.update, true)
}

func listOptions(opts []ListOption) (options, error) { return collect(opts, ListOption.list, false) }

// collect adds options up, in their order, and returns all complaints about them. nil options are none.
func collect[O any](opts []O, apply func(O, *options), write bool) (options, error) {
	if len(opts) == 0 {
		return options{}, nil // without a detour over the heap
	}
	var o options
	for _, opt := range opts {
		if any(opt) != nil {
			apply(opt, &o)
		}
	}
	if write {
		o.checkWrite()
	} else {
		o.checkList()
	}
	return o, join(o.complaints)
}

// checkWrite complains about options of a write that contradict each other.
func (o *options) checkWrite() {
	leases := 0
	for _, set := range []bool{o.ttlSet, o.leaseSet, o.sameLease} {
		if set {
			leases++
		}
	}
	if leases > 1 {
		o.complain("WithTTL, WithLease and WithSameLease exclude each other")
	}
	if o.noLease && leases > 0 {
		o.complain("WithoutLease excludes WithTTL, WithLease and WithSameLease")
	}
	if o.leaseSet && o.lease == clientv3.NoLease {
		o.complain("WithLease: no lease given")
	}
	if err := checkTTL(o.ttl); o.ttlSet && err != nil {
		o.complaints = append(o.complaints, err)
	}
}

// checkList complains about options of a listing that cannot be meant.
func (o *options) checkList() {
	if o.revisionSet && o.revision <= 0 {
		o.complain("WithRevision: revision %d", o.revision)
	}
	if o.limitSet && o.limit <= 0 {
		o.complain("WithLimit: %d entries", o.limit)
	}
}

// errPartial refuses an option for prefixes on a single key.
var errPartial = fmt.Errorf("%w: WithPartialPrefix is for prefixes, and this is a key", errs.Invalid)

// keyOptions are deleteOptions for a single key.
func keyOptions(opts []DeleteOption) (options, error) {
	o, err := deleteOptions(opts)
	if o.partial {
		err = errors.Join(err, errPartial)
	}
	return o, err
}

// Option is an option of a [Store].
type Option func(*settings)

// settings is what the options of a store add up to.
type settings struct {
	namespace string
	retry     RetryPolicy
	logger    *slog.Logger
	limits    Limits
	read      time.Duration
	write     time.Duration
	onRetry   func(op string, attempt int, err error)
}

// WithNamespace puts all keys of the store below dir. Default: none.
func WithNamespace(dir string) Option { return func(s *settings) { s.namespace = dir } }

// WithRetry says how often and at what pace calls are repeated. Default: see [RetryPolicy].
func WithRetry(p RetryPolicy) Option { return func(s *settings) { s.retry = p } }

// WithLogger sets the logger for retries and writes, which are logged at the level Debug; values appear as their length
// and a short hash. Default: [slog.Default], from the level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *settings) { s.logger = l } }

// WithLimits changes the limits that are checked before a request is sent, where the cluster's settings differ from
// etcd's defaults. A field that is 0 keeps its default.
func WithLimits(l Limits) Option { return func(s *settings) { s.limits = l } }

// WithTimeouts bounds calls whose context has no deadline. Default: 5 s for reads and 10 s for writes; 0 keeps it. Below
// 7 s the refusal of a write by a server that has lost its quorum is not heard, and its outcome becomes unknown.
func WithTimeouts(read, write time.Duration) Option {
	return func(s *settings) { s.read, s.write = read, write }
}

// WithRetryHook is told of each attempt that is about to be repeated: the operation, which attempt failed, from 1, and
// how. It is called in the caller's goroutine and must not block. Default: none.
func WithRetryHook(f func(op string, attempt int, err error)) Option {
	return func(s *settings) { s.onRetry = f }
}
