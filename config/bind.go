package config

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// BindOption is an option of [Bind] or [BindDir].
type BindOption[T any] func(*bindOptions[T])

// bindOptions is what the options add up to.
type bindOptions[T any] struct {
	def         *T
	validate    []func(T) error
	strict      bool
	codec       kv.Codec[T]
	nilValidate bool // WithValidate was given none
	nilCodec    bool // likewise WithCodec
}

// WithDefault is the value where the key is absent; for a dir, the struct whose fields hold where their keys are absent,
// and default tags are not looked at then. What it refers to is shared and read-only. Default: none for a key, which
// makes it required; for a dir, the zero struct with the default tags.
func WithDefault[T any](v T) BindOption[T] {
	return func(s *bindOptions[T]) { s.def = &v }
}

// WithValidate has f asked about each value before it is loaded, and before [Value.Set] writes it: on an error, the last
// good value stays. It is asked about defaults too. Given several times, all are asked, in order. It must be quick and
// must not call what waits for the source, such as Set, because all other values wait for it. A panic is a refusal.
// Default: none.
func WithValidate[T any](f func(T) error) BindOption[T] {
	return func(s *bindOptions[T]) {
		s.validate = append(s.validate, f)
		s.nilValidate = s.nilValidate || f == nil
	}
}

// WithStrict makes unknown fields of JSON and YAML, fields that are set twice, and for a dir keys that belong to no field,
// a bad value. Default: they are ignored, so that a new version's configuration does not stop an old version's process.
func WithStrict[T any]() BindOption[T] { return func(s *bindOptions[T]) { s.strict = true } }

// WithCodec stores the value of a key in a form of your own. Its Decode may return the error of a value that is bad in
// any way, and is not quoted. It is not for BindDir. Default: the encoding of T that the package comment lists.
func WithCodec[T any](c kv.Codec[T]) BindOption[T] {
	return func(s *bindOptions[T]) { s.codec, s.nilCodec = c, c == nil }
}

// Bind returns a value that follows key. It reads memory and sends nothing.
//
// A bad value is reported, by [Value.Err], [WithErrorHandler], the log and the Stats, and does not change what Load
// returns; the next good one ends that. Deletion of the key brings the default back; without [WithDefault] it counts as a
// bad value. A value that is bad when Bind is called is replaced by the first of these that is good: the one in the state
// file, the one in the fallback file, that of WithDefault; with none of them, or when a variable of the environment is
// what is bad, the error is a [*BadValueError], which matches kv.ErrNotFound if the key is absent and there is no default.
// Mistakes of the program match [ErrInvalid]: a key that is no name, a type that nothing can be decoded into, a default
// that validation refuses, with [WithEnvironment] a key whose variable is that of another bound key.
func Bind[T any](s *Source, key string, o ...BindOption[T]) (*Value[T], error) {
	const op = "bind"
	v, err := newValue(s, o)
	if err != nil {
		return nil, opError(op, key, err)
	}
	v.path, v.defaultValue = key, v.options.def
	validationErrs := []error{keyspace.Name(key)}
	if v.options.codec == nil {
		validationErrs = append(validationErrs, checkType(reflect.TypeFor[T]()))
	} else if v.options.strict {
		validationErrs = append(validationErrs, invalid("WithStrict does not go with WithCodec"))
	}
	if v.defaultValue != nil {
		validationErrs = append(validationErrs, v.checkDefault())
	}
	if err = errors.Join(validationErrs...); err == nil {
		err = v.subscribe()
	}
	if err != nil {
		return nil, opError(op, key, err)
	}
	return v, nil
}

// BindDir returns a struct that follows the keys below dir, which lies below the source's; "" is all of it. It is made of
// one revision: a transaction that changes several keys is seen as one change. What [Bind] says about bad values holds
// for the struct as a whole: one bad field, and all of it stays as it was, or BindDir fails. Its default tags do not
// stand in for keys that are bad. Each bad key is reported. Fields go by their tags:
//
//	type Limits struct {
//		Rate    int           `config:"rate" default:"100"`     // the key <dir>/rate
//		Timeout time.Duration `config:"timeout,required"`       // absent, it is a bad value
//		Region  string        `json:"region"`                   // without a config name, as encoding/json has it
//		HTTP    struct {                                        // a struct is a dir: <dir>/http/port
//			Port int                                            // without any name, in lower case with "-": "MaxConns" is "max-conns"
//		}
//		Banner  Banner        `config:"banner,json"`            // a struct that is one key
//		Flags   map[string]bool `config:"flags,dir"`            // a map with an entry for each key below <dir>/flags
//		Note    *string                                         // nil where it is absent
//		Cache   string        `config:"-"`                      // none; likewise json:"-" without a config tag
//	}
//
// Embedded structs without a name are part of the outer one. Bind and BindDir decode once for each revision that changes
// a key of theirs.
func BindDir[T any](s *Source, dir string, o ...BindOption[T]) (*Value[T], error) {
	const op = "bind dir"
	v, err := newValue(s, o)
	if err != nil {
		return nil, opError(op, dir, err)
	}
	var bad error
	v.path, bad = keyspace.Dir(dir)
	validationErrs := []error{bad}
	if v.path != "" {
		validationErrs = append(validationErrs, keyspace.Name(strings.TrimSuffix(v.path, "/")))
	}
	if v.options.codec != nil {
		validationErrs = append(validationErrs, invalid("WithCodec is not for a dir"))
	}
	v.schema, bad = newSchema(reflect.TypeFor[T](), v.options.strict)
	if err = errors.Join(append(validationErrs, bad)...); err == nil {
		v.defaultValue = v.options.def
		if v.defaultValue == nil {
			v.defaultValue = new(T)
			err = v.schema.defaults(reflect.ValueOf(v.defaultValue).Elem())
		} else {
			err = v.checkDefault()
		}
	}
	if err == nil {
		err = v.subscribe()
	}
	if err != nil {
		return nil, opError(op, dir, err)
	}
	return v, nil
}

// newValue applies the options.
func newValue[T any](s *Source, o []BindOption[T]) (*Value[T], error) {
	if s == nil {
		return nil, invalid("no source")
	}
	v := &Value[T]{src: s, followers: make(map[*listenerQueue[T]]struct{})}
	for _, opt := range o {
		if opt != nil {
			opt(&v.options)
		}
	}
	var validationErrs []error
	if v.options.nilValidate {
		validationErrs = append(validationErrs, invalid("WithValidate: no function"))
	}
	if v.options.nilCodec {
		validationErrs = append(validationErrs, invalid("WithCodec: no codec"))
	}
	return v, errors.Join(validationErrs...)
}

// checkDefault refuses a default that validation refuses: it would be found out on a bad day.
func (v *Value[T]) checkDefault() error {
	if v.options.nilValidate {
		return nil
	}
	if err := v.validate(*v.defaultValue); err != nil {
		return invalid("WithDefault: %w", err)
	}
	return nil
}

// subscribe loads the first value, and has the source tell of each change from then on.
func (v *Value[T]) subscribe() error {
	s := v.src
	for {
		s.mu.RLock()
		latest, others := v.items(&s.layers), v.fallbacks()
		s.mu.RUnlock()
		if err := v.init(latest, others); err != nil {
			return err
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return errs.ClosedError("source")
		}
		if current := sameValues(latest, v.items(&s.layers)); !current {
			s.mu.Unlock()
			continue
		}
		if err := v.claimVariables(); err != nil {
			s.mu.Unlock()
			return err
		}
		s.boundValues = append(slices.Clip(s.boundValues), v) // others read the old one
		s.mu.Unlock()
		break
	}
	if err := v.Err(); err != nil {
		s.reportBadValue(v.path, true, err)
		s.markStateDirty() // the state file may have what is bad
	}
	return nil
}

// claimVariables refuses keys that share a variable of the environment: it would override both. The caller holds the
// source's lock.
func (v *Value[T]) claimVariables() error {
	s := v.src
	if s.layers.env.prefix == "" {
		return nil
	}
	keys := []string{v.path}
	if v.schema != nil {
		keys = v.schema.keys(v.path)
	}
	claimed := make(map[string]string, len(keys))
	for _, key := range keys {
		name := s.layers.env.prefix + envName(key)
		for _, other := range []string{s.variables[name], claimed[name]} {
			if other != "" && other != key {
				return invalid("the keys %q and %q have one variable, %s", other, key, name)
			}
		}
		claimed[name] = key
	}
	maps.Copy(s.variables, claimed)
	return nil
}

// fallbacks returns what the user has named to stand in for what etcd has, below the environment: the state file, the
// fallback file, the default. The caller holds the source's lock.
func (v *Value[T]) fallbacks() [][]keyedItem {
	from := v.src.layers
	var out [][]keyedItem
	if v.src.saved.ok {
		from.etcd = v.src.saved.etcd
		out = append(out, v.items(&from))
	}
	from.etcd = nil
	if v.src.options.hasFallback {
		out = append(out, v.items(&from))
	}
	from.fallback = nil
	if v.options.def != nil {
		out = append(out, v.items(&from))
	}
	return out
}

// init loads the first value.
func (v *Value[T]) init(latest []keyedItem, others [][]keyedItem) error {
	out, err := v.build(latest)
	good := latest
	if err != nil {
		if slices.ContainsFunc(listBad(err), func(bad *BadValueError) bool { return bad.Origin == Environment }) {
			return err
		}
		for _, good = range others {
			var worse error
			if out, worse = v.build(good); worse == nil {
				break
			}
		}
		if out == nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.latest, v.good, v.err = latest, good, err
	v.current.Store(out)
	return nil
}
