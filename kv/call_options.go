package kv

import (
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Option types for single calls. Each type names the calls that accept it: for example, a
// ListOption does not compile on Put.
type (
	// ListOption is an option of List, Keys and Map.
	ListOption interface{ list(*options) }
	// PutOption is an option of Put, Create, Replace, CompareAndSwap and OpPut.
	PutOption interface{ put(*options) }
	// DeleteOption is an option of Delete, DeleteAt, CompareAndDelete, DeletePrefix and OpDelete.
	DeleteOption interface{ delete(*options) }
	// UpdateOption is an option of Update.
	UpdateOption interface{ update(*options) }
	// PrefixOption is an option of calls that take a prefix.
	PrefixOption interface {
		ListOption
		DeleteOption
	}
	// LeaseOption is an option of calls that write a value. It sets the lease that the key is
	// attached to.
	LeaseOption interface {
		PutOption
		UpdateOption
		ofLease()
	}
	// WriteOption is an option of every write.
	WriteOption interface {
		PutOption
		DeleteOption
		UpdateOption
	}
)

// option implements all option types. The functions below return the types that apply.
type option func(*options)

func (f option) list(o *options)   { f(o) }
func (f option) put(o *options)    { f(o) }
func (f option) delete(o *options) { f(o) }
func (f option) update(o *options) { f(o) }

// leaseOption is an option for calls that write a value, but not for deletes.
type leaseOption struct{ option }

func (leaseOption) ofLease() {}

// options holds the settings of one call.
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
	// readRevision receives the revision of the listing.
	readRevision *int64

	errs []error
}

func (o *options) addError(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...))
}

// WithOnce makes the outcome of the write known even if the response is lost. The transaction also
// writes an operation ID to a hidden key of this client, and is repeated until etcd has reported
// whether it was applied. If the context ends first, the outcome is unknown. WithOnce costs one
// more put per write, and one lease grant about every 30 seconds of use. See the package
// documentation.
func WithOnce() WriteOption { return option(func(o *options) { o.once = true }) }

// WithTTL makes etcd delete the key after d, unless it is written again before. d is rounded up to
// whole seconds and must be at least 1 s. A server with default timing grants at least 2 s.
//
// If d is two minutes or more, writes with the same TTL through a store, and through those derived
// from it, share a lease. A key then lives up to d/20 longer than d. The first write in each period
// of d/20, and the first after every 1000 writes, grants a lease and costs two RPCs. The others
// cost one. Never revoke the lease of such a key, because that deletes other keys, too.
//
// If d is less than two minutes, each write grants its own lease. It costs two RPCs, and the lease
// remains in etcd until its TTL ends even if the key is overwritten. If the write is refused, the
// lease is revoked. Revoking takes at most 500 ms and ignores the end of the context. If the
// outcome of the grant or the write is unknown, the lease is left to expire. For many keys that
// live as long as a process, a lease.Session is cheaper.
//
// In a [Store.Batch], operations of a transaction with the same TTL share one lease.
func WithTTL(d time.Duration) LeaseOption {
	return leaseOption{func(o *options) {
		o.ttl, o.ttlSet = d, true
	}}
}

// WithLease attaches the key to a lease: the key is deleted when the lease ends. If the lease does
// not exist, the write is refused.
func WithLease(id clientv3.LeaseID) LeaseOption {
	return leaseOption{func(o *options) {
		o.lease, o.leaseSet = id, true
	}}
}

// WithSameLease keeps the lease that the key is attached to; a plain Put detaches it. A key that
// does not exist is created without a lease. In Put, Create and OpPut it halves the maximum size of
// a value, since the request then contains the value twice.
func WithSameLease() LeaseOption { return leaseOption{func(o *options) { o.sameLease = true }} }

// WithUpsert makes Update create a key that does not exist. Its function is then passed an entry
// with the zero value.
func WithUpsert() UpdateOption { return option(func(o *options) { o.upsert = true }) }

// WithSkipEqual makes Update leave the key unchanged if the new value equals the stored one. Update
// then sends no write and returns the current entry. The lease is also kept, whatever other options
// say. A [Typed] compares the output of its codec before layers such as those of package codec, so
// two ciphertexts of one value are equal.
func WithSkipEqual() UpdateOption { return option(func(o *options) { o.skipEqual = true }) }

// WithoutLease makes Update detach the key from its lease. By default, Update keeps the lease.
func WithoutLease() UpdateOption { return option(func(o *options) { o.noLease = true }) }

// WithReadRevision stores the revision of the listing in *rev as soon as it is known: before the
// first entry is yielded, or at the end of an empty listing. A watch from the next revision on
// misses no change.
func WithReadRevision(rev *int64) ListOption {
	return option(func(o *options) {
		if rev == nil {
			o.addError("WithReadRevision: nil")
		}
		o.readRevision = rev
	})
}

// WithRevision lists the entries at a past revision. The error is ErrCompacted if that was
// compacted. Default: the current revision.
func WithRevision(rev int64) ListOption {
	return option(func(o *options) {
		o.revision, o.revisionSet = rev, true
	})
}

// WithAfter starts the listing after key, or before it with [WithReverse]. key need not exist, but
// must begin with the prefix.
func WithAfter(key string) ListOption { return option(func(o *options) { o.after = key }) }

// WithLimit ends the listing after n entries. Default: no limit.
func WithLimit(n int) ListOption {
	return option(func(o *options) {
		o.limit, o.limitSet = n, true
	})
}

// WithPartialPrefix allows a prefix that does not end in "/", such as "users/4", and "" on a store
// without a namespace, which means every key in etcd.
func WithPartialPrefix() PrefixOption { return option(func(o *options) { o.partial = true }) }

// WithReverse lists from the last key to the first. The server sorts the whole range for each page.
func WithReverse() ListOption { return option(func(o *options) { o.reverse = true }) }

func putOptions(opts []PutOption) (options, error) { return collect(opts, PutOption.put, true) }
func deleteOptions(opts []DeleteOption) (options, error) {
	return collect(opts, DeleteOption.delete, true)
}

func updateOptions(opts []UpdateOption) (options, error) {
	return collect(opts, UpdateOption.update, true)
}

func listOptions(opts []ListOption) (options, error) { return collect(opts, ListOption.list, false) }

// collect applies options in order and returns all their errors, joined. It ignores nil options.
func collect[O any](opts []O, apply func(O, *options), write bool) (options, error) {
	if len(opts) == 0 {
		return options{}, nil // avoids a heap allocation
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
	return o, joinErrors(o.errs)
}

// checkWrite records errors for options of a write that conflict.
func (o *options) checkWrite() {
	leases := 0
	for _, set := range []bool{o.ttlSet, o.leaseSet, o.sameLease} {
		if set {
			leases++
		}
	}
	if leases > 1 {
		o.addError("WithTTL, WithLease and WithSameLease are mutually exclusive")
	}
	if o.noLease && leases > 0 {
		o.addError("WithoutLease cannot be combined with WithTTL, WithLease or WithSameLease")
	}
	if o.leaseSet && o.lease == clientv3.NoLease {
		o.addError("WithLease: no lease given")
	}
	if err := wire.CheckTTL(o.ttl); o.ttlSet && err != nil {
		o.errs = append(o.errs, err)
	}
}

// checkList records errors for invalid options of a listing.
func (o *options) checkList() {
	if o.revisionSet && o.revision <= 0 {
		o.addError("WithRevision: revision %d", o.revision)
	}
	if o.limitSet && o.limit <= 0 {
		o.addError("WithLimit: %d entries", o.limit)
	}
}

// errPartial is the error for WithPartialPrefix on a single key.
var errPartial = fmt.Errorf("%w: WithPartialPrefix does not apply to a single key", errs.Invalid)

// keyOptions is like deleteOptions, for a single key.
func keyOptions(opts []DeleteOption) (options, error) {
	o, err := deleteOptions(opts)
	if o.partial {
		err = errors.Join(err, errPartial)
	}
	return o, err
}
