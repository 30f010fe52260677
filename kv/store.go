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
	err error // the error that every call returns, or nil
}

// core is the state that a store shares with those derived from it.
type core struct {
	cli       *clientv3.Client
	kv        clientv3.KV
	engine    *retry.Engine
	hiddenDir string // the absolute directory of the library's own keys
	limits    Limits
	log       *slog.Logger
	scope     *scope.Scope
	keyQueues keyQueues
	slots     slotPool
	ttls      ttlPool
	seed      maphash.Seed // for the hashes in the log
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
	ns, dirErr := keyspace.Dir(s.namespace)
	err := errors.Join(dirErr, s.retry.Validate(), s.limits.Validate())
	if s.readTimeout < 0 || s.writeTimeout < 0 {
		err = errors.Join(err, fmt.Errorf("%w: negative timeout", errs.Invalid))
	}
	if cli == nil {
		return nil, opError("new", "", errors.Join(err, fmt.Errorf("%w: no client", errs.Invalid)))
	}
	s.logger = s.scope.Logger(s.logger)
	kv, observed := wire.KV(cli)
	switch {
	case kv == nil:
		err = errors.Join(err, fmt.Errorf("%w: the client has no KV", errs.Invalid))
	case embedsNil(kv):
		kv = partialKV{kv}
	}
	if err != nil {
		return nil, opError("new", "", err)
	}
	c := &core{
		cli: cli,
		kv:  kv,
		engine: retry.New(retry.Config{
			Client: cli, Observed: observed, Policy: retry.Policy(s.retry),
			ReadTimeout: s.readTimeout, WriteTimeout: s.writeTimeout, Logger: s.logger, Scope: s.scope,
		}),
		hiddenDir: ns + keyspace.Hidden,
		limits:    s.limits.withDefaults(),
		log:       s.logger,
		scope:     s.scope,
		seed:      maphash.MakeSeed(),
		slots:     slotPool{dir: ns + keyspace.Hidden + "op/", granting: make(chan struct{}, 1)},
	}
	out := &Store{core: c, ns: ns}
	scope.Track(s.scope, metrics, "", out.Stats)
	return out, nil
}

// invalidStore returns a store whose calls all return ErrInvalid. Handles without a store use it.
func invalidStore() *Store {
	return &Store{core: &core{}, err: fmt.Errorf("%w: no store", errs.Invalid)}
}

// Namespace returns the store below dir. It shares the client, the retry budget, the operation
// slots and the queues of Update with s. If dir is invalid, every call returns [ErrInvalid].
func (s *Store) Namespace(dir string) *Store {
	below, err := keyspace.Dir(dir)
	return &Store{core: s.core, ns: s.ns + below, err: errors.Join(s.err, err)}
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
	return Stats{Calls: e.Calls, Retries: e.Retries, Unknown: e.Unknown, Conflicts: s.keyQueues.conflicts.Load()}
}

// readCall returns the description of a read for the retry engine.
func (s *Store) readCall(op, key string) retry.Call {
	return retry.Call{Pkg: "kv", Op: op, Dir: s.ns, Key: key, Read: true}
}

// absoluteKey validates a key to be read and returns its absolute form.
func (s *Store) absoluteKey(key string) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
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

// writableKey is like absolute, for a key to be written.
func (s *Store) writableKey(key string) ([]byte, error) {
	abs, err := s.absoluteKey(key)
	if err == nil && (keyspace.IsHidden(key) || strings.HasPrefix(string(abs), s.hiddenDir)) {
		return nil, errHidden
	}
	return abs, err
}

// errHidden is the error for writes to the library's own keys.
var errHidden = fmt.Errorf("%w: %s belongs to the library", errs.Invalid, keyspace.Hidden)

// spans validates a prefix and returns the absolute ranges below it.
func (s *Store) spans(prefix string, partial bool) ([]keyspace.Range, error) {
	if s.err != nil {
		return nil, s.err
	}
	if err := keyspace.Prefix(prefix, partial); err != nil {
		return nil, err
	}
	if prefix == "" && s.ns == "" && !partial {
		return nil, fmt.Errorf("%w: the empty prefix of a store without a namespace means every key in etcd: if that is intended, use WithPartialPrefix", errs.Invalid)
	}
	return keyspace.Spans(s.ns, prefix), nil
}

// readSpans is like spans, for reads that take no options. An empty prefix is allowed because reads
// are safe.
func (s *Store) readSpans(prefix string) ([]keyspace.Range, error) {
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return nil, errors.Join(s.err, fmt.Errorf("%w: prefix %s does not end in \"/\": did you mean %s", errs.Invalid, errs.Quote(prefix), errs.Quote(prefix+"/")))
	}
	return s.spans(prefix, true)
}

// intersect returns the intersections of spans with r.
func intersect(spans []keyspace.Range, r keyspace.Range) (out []keyspace.Range) {
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

// joinErrors is like errors.Join, but returns a single error unchanged.
func joinErrors(all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}

// redactedValue logs a value as its length and a short hash, whose seed differs in each process.
// The hash tells two values apart within one log, and does not reveal them.
type redactedValue struct {
	seed  maphash.Seed
	value []byte
}

// LogValue implements slog.LogValuer. It is called only if the record is logged.
func (m redactedValue) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("bytes", len(m.value)), slog.Uint64("hash", maphash.Bytes(m.seed, m.value)&0xffffff))
}

// observe begins an operation for the observer of the client. End must follow.
func (c *core) observe(ctx context.Context, name string) (context.Context, scope.Running) {
	return c.scope.Begin(ctx, scope.Operation{Package: "kv", Name: name})
}

// logWrite logs a write before it is sent. v is nil for a delete.
func (s *Store) logWrite(ctx context.Context, op, key string, v []byte) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"op", op, "key", errs.Short(s.ns + key)}
	if v != nil {
		attrs = append(attrs, "value", redactedValue{s.seed, v})
	}
	s.log.DebugContext(ctx, "etcd write", attrs...)
}

var _ = retry.Provide(func(store any) (retry.Sender, error) {
	s := store.(*Store) //nolint:forcetypeassert // callers pass nothing else
	return retry.Sender{Engine: s.engine, KV: s.kv}, s.err
})
