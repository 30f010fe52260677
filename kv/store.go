package kv

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Store is a key-value store below a namespace. It is safe for concurrent use, runs no goroutine
// and need not be closed. Stores derived from one another with [Store.Namespace] share everything
// but the namespace.
type Store struct {
	*core

	ns  string
	bad error // the error that every call returns, or nil
}

// core is the state that a store shares with those derived from it.
type core struct {
	cli    *clientv3.Client
	kv     clientv3.KV
	engine *retry.Engine
	hidden string // the absolute directory of the library's own keys
	limits Limits
	log    *slog.Logger
	scope  *scope.Scope
	turns  turns
	slots  slots
	ttls   ttlPool
	seed   maphash.Seed // for the hashes in the log
}

// Stats holds the counters of a store and of the stores derived from it, including requests that
// other packages send through them.
type Stats struct {
	Calls     uint64 `json:"calls"`     // calls with valid arguments
	Retries   uint64 `json:"retries"`   // attempts after the first of a call
	Unknown   uint64 `json:"unknown"`   // writes whose outcome is unknown
	Conflicts uint64 `json:"conflicts"` // attempts of Update and Transact that found a changed key
}

// New returns a store over cli. It sends nothing. If cli.KV is not the KV of client/v3, it is used
// unchanged.
//
// If options are invalid, the error matches [ErrInvalid] and lists everything that is wrong with
// them.
func New(cli *clientv3.Client, opts ...Option) (*Store, error) {
	var s settings
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	ns, badDir := keyspace.Dir(s.namespace)
	bad := errors.Join(badDir, s.retry.Validate(), s.limits.Validate())
	if s.read < 0 || s.write < 0 {
		bad = errors.Join(bad, fmt.Errorf("%w: negative timeout", errs.Invalid))
	}
	if cli == nil {
		return nil, fail("new", "", errors.Join(bad, fmt.Errorf("%w: no client", errs.Invalid)))
	}
	s.logger = s.scope.Logger(s.logger)
	kv, observed := wire.KV(cli)
	switch {
	case kv == nil:
		bad = errors.Join(bad, fmt.Errorf("%w: the client has no KV", errs.Invalid))
	case embedsNil(kv):
		kv = partialKV{kv}
	}
	if bad != nil {
		return nil, fail("new", "", bad)
	}
	c := &core{
		cli: cli,
		kv:  kv,
		engine: retry.New(retry.Config{
			Client: cli, Observed: observed, Policy: retry.Policy(s.retry),
			ReadTimeout: s.read, WriteTimeout: s.write, Logger: s.logger, Scope: s.scope,
		}),
		hidden: ns + keyspace.Hidden,
		limits: s.limits.withDefaults(),
		log:    s.logger,
		scope:  s.scope,
		seed:   maphash.MakeSeed(),
		slots:  slots{dir: ns + keyspace.Hidden + "op/", grant: make(chan struct{}, 1)},
	}
	out := &Store{core: c, ns: ns}
	scope.Track(s.scope, metrics, "", out.Stats)
	return out, nil
}

// noStore returns a store whose calls all return ErrInvalid. Handles without a store use it.
func noStore() *Store {
	return &Store{core: &core{}, bad: fmt.Errorf("%w: no store", errs.Invalid)}
}

// Namespace returns the store below dir. It shares the client, the retry budget, the operation
// slots and the queues of Update with s. If dir is invalid, every call returns [ErrInvalid].
func (s *Store) Namespace(dir string) *Store {
	below, err := keyspace.Dir(dir)
	return &Store{core: s.core, ns: s.ns + below, bad: errors.Join(s.bad, err)}
}

// Dir returns the absolute namespace of the store, "" if it has none. The keys of a [Guard] are
// absolute and begin with it.
func (s *Store) Dir() string { return s.ns }

// Stats returns the counters of the store and of the stores derived from it.
func (s *Store) Stats() Stats {
	if s.engine == nil {
		return Stats{}
	}
	e := s.engine.Stats()
	return Stats{Calls: e.Calls, Retries: e.Retries, Unknown: e.Unknown, Conflicts: s.turns.conflicts.Load()}
}

// read returns the description of a read for the retry engine.
func (s *Store) read(op, key string) retry.Call {
	return retry.Call{Pkg: "kv", Op: op, Dir: s.ns, Key: key, Read: true}
}

// absolute validates a key to be read and returns its absolute form.
func (s *Store) absolute(key string) ([]byte, error) {
	if s.bad != nil {
		return nil, s.bad
	}
	if err := s.checkKey(key); err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(s.ns)+len(key))
	return append(append(b, s.ns...), key...), nil
}

// checkKey returns an error if a relative key is empty, or too long including the namespace.
func (s *Store) checkKey(key string) error {
	if room := s.limits.KeyBytes - len(s.ns); room <= 0 {
		return fmt.Errorf("%w: the namespace is %d bytes, the limit for a whole key is %d", errs.TooLarge, len(s.ns), s.limits.KeyBytes)
	} else if err := keyspace.Key(key, room); err != nil {
		return err
	}
	return nil
}

// writable is like absolute, for a key to be written.
func (s *Store) writable(key string) ([]byte, error) {
	abs, err := s.absolute(key)
	if err == nil && (keyspace.IsHidden(key) || strings.HasPrefix(string(abs), s.hidden)) {
		return nil, errHidden
	}
	return abs, err
}

// errHidden is the error for writes to the library's own keys.
var errHidden = fmt.Errorf("%w: %s belongs to the library", errs.Invalid, keyspace.Hidden)

// spans validates a prefix and returns the absolute ranges below it.
func (s *Store) spans(prefix string, partial bool) ([]keyspace.Range, error) {
	if s.bad != nil {
		return nil, s.bad
	}
	if err := keyspace.Prefix(prefix, partial); err != nil {
		return nil, err
	}
	if prefix == "" && s.ns == "" && !partial {
		return nil, fmt.Errorf("%w: the empty prefix of a store without a namespace is all of etcd: if that is meant, say WithPartialPrefix", errs.Invalid)
	}
	return keyspace.Spans(s.ns, prefix), nil
}

// harmless is like spans, for reads that take no options. An empty prefix is allowed because reads
// are safe.
func (s *Store) harmless(prefix string) ([]keyspace.Range, error) {
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return nil, errors.Join(s.bad, fmt.Errorf("%w: prefix %s does not end in \"/\": did you mean %s", errs.Invalid, errs.Quote(prefix), errs.Quote(prefix+"/")))
	}
	return s.spans(prefix, true)
}

// within returns the intersections of spans with r.
func within(spans []keyspace.Range, r keyspace.Range) (out []keyspace.Range) {
	for _, one := range spans {
		if cut := one.Intersect(r); !cut.Empty() {
			out = append(out, cut)
		}
	}
	return out
}

// get reads one absolute key, without retries.
func (c *core) get(ctx context.Context, key []byte, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op := clientv3.OpGet("", opts...)
	op.WithKeyBytes(key)
	r, err := c.kv.Do(ctx, op)
	return r.Get(), err
}

// join is like errors.Join, but returns a single error unchanged.
func join(all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}
