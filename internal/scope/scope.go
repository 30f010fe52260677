// Package scope carries what the parts of a client share without showing it in their APIs: the
// logger, the hooks of the observer, and the registry of metrics.
//
// The client passes its scope to the parts that it makes with [Option]. Parts that are made from
// others, such as a cache over a store, get it with [Of]. A nil *Scope is that of parts without a
// client: it has no hooks, its metrics are not collected, and its logger is the default.
package scope

import (
	"log/slog"
	"reflect"
	"sync"

	"github.com/etcdkit/etcdkit/internal/logging"
)

// Scope is what the parts of a client share. It is safe for concurrent use.
type Scope struct {
	logger *slog.Logger
	hooks  Hooks
	calls  activeCounter // hooks that run on goroutines of their own

	collecting sync.Mutex // held while statistics are read and until they are used

	mu     sync.Mutex        // acquired after collecting
	groups map[string]*group // by package
}

// New returns a scope with a logger, which must not be nil, and hooks.
func New(l *slog.Logger, h Hooks) *Scope {
	return &Scope{logger: l, hooks: h, groups: map[string]*group{}}
}

// Logger returns own if it is not nil, and otherwise the logger of the scope or the default.
func (s *Scope) Logger(own *slog.Logger) *slog.Logger {
	if own == nil && s != nil {
		own = s.logger
	}
	return logging.OrDefault(own)
}

// options and parts hold what packages have provided, by type. They are written only while packages
// are initialized.
//
//nolint:gochecknoglobals // so that a type can be named here that this package must not import
var (
	options = map[reflect.Type]any{}
	parts   = map[reflect.Type]any{}
)

// ProvideOption lets [Option] return options of type O, which set the scope of a part. The package
// of O calls it in a variable declaration.
func ProvideOption[O any](f func(*Scope) O) bool {
	options[reflect.TypeFor[O]()] = f
	return true
}

// Option returns the option of type O, such as kv.Option, that makes a part use s.
func Option[O any](s *Scope) O {
	return options[reflect.TypeFor[O]()].(func(*Scope) O)(s) //nolint:forcetypeassert // as provided
}

// ProvidePart lets [Of] return the scope of a part of type P. The package of P calls it in a
// variable declaration.
func ProvidePart[P any](f func(P) *Scope) bool {
	parts[reflect.TypeFor[P]()] = f
	return true
}

// Of returns the scope of a part, such as a *kv.Store. It is nil if the part has none.
func Of[P any](part P) *Scope {
	return parts[reflect.TypeFor[P]()].(func(P) *Scope)(part) //nolint:forcetypeassert // as provided
}
