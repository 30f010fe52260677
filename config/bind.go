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

// bindOptions holds the options of Bind and BindDir.
type bindOptions[T any] struct {
	def         *T
	validate    []func(T) error
	strict      bool
	codec       kv.Codec[T]
	nilValidate bool // WithValidate got nil
	nilCodec    bool // WithCodec got nil
}

// WithDefault sets the value used if the key is absent. [Bind] also uses it if the key has an
// invalid value and no valid fallback. For a directory, v provides the fields whose keys are
// absent, default tags are ignored, and required fields stay required. Maps and slices in v are
// shared; do not modify them. Default: no value, so that the key is required; for a directory, the
// zero struct with its default tags.
func WithDefault[T any](v T) BindOption[T] {
	return func(s *bindOptions[T]) { s.def = &v }
}

// WithValidate validates each value before Load returns it and before [Value.Set] writes it. If f
// returns an error or panics, the last valid value stays in use. Defaults are validated, too.
// Several functions are called in order. f delays all other values of the source, so it must be
// fast and must not call functions that wait for the source, such as Set. Default: none.
func WithValidate[T any](f func(T) error) BindOption[T] {
	return func(s *bindOptions[T]) {
		s.validate = append(s.validate, f)
		s.nilValidate = s.nilValidate || f == nil
	}
}

// WithStrict treats unknown fields in JSON and YAML, fields set twice and, for a directory, keys
// without a field as invalid values. Default: they are ignored, so that the configuration of a new
// version does not stop processes of an old one.
func WithStrict[T any]() BindOption[T] { return func(s *bindOptions[T]) { s.strict = true } }

// WithCodec sets the codec of a key. An error of its Decode method makes the value invalid; its
// text is not shown, because it may quote the value. It cannot be used with BindDir. Package
// kv/codec has codecs that encrypt. Default: the encoding of T listed in the package documentation.
func WithCodec[T any](c kv.Codec[T]) BindOption[T] {
	return func(s *bindOptions[T]) { s.codec, s.nilCodec = c, c == nil }
}

// Bind returns a value that follows key. It reads memory and sends nothing.
//
// An invalid value does not change what Load returns. It is reported by [Value.Err],
// [WithErrorHandler], the log and Stats, until a valid value arrives. If the key is deleted, Load
// returns the default; without [WithDefault], a missing key is an invalid value.
//
// If the value is invalid when Bind is called, Bind uses the first valid one of the state file, the
// fallback file and WithDefault. If there is none, or if an environment variable is invalid, Bind
// returns a [*BadValueError], which matches kv.ErrNotFound if the key is absent and has no default.
// Programming errors match [ErrInvalid]: an invalid key, a type that cannot be decoded, a default
// that fails validation, or, with [WithEnvironment], a key whose variable belongs to another bound
// key.
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
		validationErrs = append(validationErrs, errs.Invalidf("WithStrict cannot be used with WithCodec"))
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

// BindDir returns a struct that follows the keys below dir, which is relative to the source's
// directory; "" stands for all of it. The struct always shows a single revision: a transaction over
// several keys is one change. The rules of [Bind] for invalid values apply to the struct as a
// whole: if one field is invalid, Load keeps returning the previous struct, or BindDir fails.
// Default tags do not replace invalid keys. Each invalid key is reported. Struct tags determine the
// keys:
//
//	type Limits struct {
//		Rate    int             `config:"rate" default:"100"` // the key <dir>/rate
//		Timeout time.Duration   `config:"timeout,required"`   // invalid if absent
//		Region  string          `json:"region"`               // no config name: the json name
//		HTTP    struct {                                      // a nested dir: <dir>/http/max-conns
//			MaxConns int                                      // no name: in kebab case
//		}
//		Banner  Banner          `config:"banner,json"`        // a struct stored under one key
//		Flags   map[string]bool `config:"flags,dir"`          // the keys below <dir>/flags
//		Note    *string                                       // nil if absent
//		Cache   string          `config:"-"`                  // not configuration
//	}
//
// Without a config tag, json:"-" also excludes a field.
//
// The fields of an embedded struct without a name belong to the outer struct. Each value is decoded
// once per revision that changes one of its keys.
func BindDir[T any](s *Source, dir string, o ...BindOption[T]) (*Value[T], error) {
	const op = "bind dir"
	v, err := newValue(s, o)
	if err != nil {
		return nil, opError(op, dir, err)
	}
	var argErr error
	v.path, argErr = keyspace.Dir(dir)
	validationErrs := []error{argErr}
	if v.path != "" {
		validationErrs = append(validationErrs, keyspace.Name(strings.TrimSuffix(v.path, "/")))
	}
	if v.options.codec != nil {
		validationErrs = append(validationErrs, errs.Invalidf("WithCodec cannot be used with a directory"))
	}
	v.schema, argErr = newSchema(reflect.TypeFor[T](), v.options.strict)
	if err = errors.Join(append(validationErrs, argErr)...); err == nil {
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

// newValue returns a value with the options applied.
func newValue[T any](s *Source, o []BindOption[T]) (*Value[T], error) {
	if s == nil {
		return nil, errs.Invalidf("nil source")
	}
	v := &Value[T]{src: s, followers: make(map[*listenerQueue[T]]struct{})}
	for _, opt := range o {
		if opt != nil {
			opt(&v.options)
		}
	}
	var validationErrs []error
	if v.options.nilValidate {
		validationErrs = append(validationErrs, errs.Invalidf("WithValidate: nil function"))
	}
	if v.options.nilCodec {
		validationErrs = append(validationErrs, errs.Invalidf("WithCodec: nil codec"))
	}
	return v, errors.Join(validationErrs...)
}

// checkDefault validates the default now, rather than when it is first needed.
func (v *Value[T]) checkDefault() error {
	if v.options.nilValidate {
		return nil
	}
	if err := v.validate(*v.defaultValue); err != nil {
		return errs.Invalidf("WithDefault: %w", err)
	}
	return nil
}

// subscribe loads the first value and registers v for updates.
func (v *Value[T]) subscribe() error {
	s := v.src
	for {
		s.mu.RLock()
		latest, fallbacks := v.items(&s.layers), v.fallbacks()
		s.mu.RUnlock()
		if err := v.init(latest, fallbacks); err != nil {
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
		// Copied: readers may hold the old slice.
		s.boundValues = append(slices.Clip(s.boundValues), v)
		s.mu.Unlock()
		break
	}
	if err := v.Err(); err != nil {
		s.reportBadValue(v.path, true, err)
		s.markStateDirty() // the state file may hold the invalid value
	}
	return nil
}

// claimVariables returns an error if a variable of v's keys belongs to another key, since it would
// override both. The source's lock must be held.
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
				return errs.Invalidf("keys %q and %q share the variable %s", other, key, name)
			}
		}
		claimed[name] = key
	}
	maps.Copy(s.variables, claimed)
	return nil
}

// fallbacks returns the items of v in each source of values that the user has configured, strongest
// first, without the environment: the state file, the fallback file, the default. The source's lock
// must be held.
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

// init sets the first value: the latest or, if that is invalid, the first valid fallback.
func (v *Value[T]) init(latest []keyedItem, fallbacks [][]keyedItem) error {
	out, err := v.build(latest)
	used := latest
	if err != nil {
		if slices.ContainsFunc(listBad(err), func(bad *BadValueError) bool { return bad.Origin == Environment }) {
			return err
		}
		for _, used = range fallbacks {
			var fallbackErr error
			if out, fallbackErr = v.build(used); fallbackErr == nil {
				break
			}
		}
		if out == nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.latest, v.good, v.err = latest, used, err
	v.current.Store(out)
	return nil
}
