package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scope"
)

// Option is an option of [Open].
type Option func(*options)

// options holds the options of Open.
type options struct {
	fallback, state       string
	hasFallback, hasState bool
	environment           string
	hasEnvironment        bool
	startOnDefaults       bool
	maxBytes              int
	errorHandler          func(key string, rev int64, err error)
	logger                *slog.Logger
	scope                 *scope.Scope // of the client; nil without one
}

// DefaultMaxValueBytes is the default of [WithMaxValueBytes] and the default limit of an etcd
// request.
const DefaultMaxValueBytes = 1536 * 1024

// WithFallbackFile provides values for keys that etcd does not have, and for all keys until etcd
// has been reached. Open reads the file once; the library never writes it. It may be a ConfigMap or
// a file in the image. It is YAML, or JSON if its name ends in ".json", and maps keys, written as
// in etcd, to values. Text, numbers and booleans stand for values stored as text, anything else for
// values stored as JSON.
//
//	http/rate-limit: 100
//	http/timeout: 5s
//	banner: {text: hello, languages: [en, de]}
//
// The fields of a mapping are keys, too: banner/text is hello. The first two lines may be written
// as
//
//	http: {rate-limit: 100, timeout: 5s}
//
// [Source.All] and [Source.Keys] include the keys named in the file, but not fields of mappings.
//
// Quote text that YAML reads as another type, such as yes, 1.10 or 0x10; a key of that kind is an
// error. Open fails if the file cannot be read, whether or not etcd is available. Default: none.
func WithFallbackFile(path string) Option {
	return func(s *options) { s.fallback, s.hasFallback = path, true }
}

// WithStateFile keeps a copy of etcd's state in a file. If etcd does not answer within 5 s or half
// of the time until the deadline of Open's context, whichever is shorter, Open starts from it. For
// a bound value, the copy holds the last valid state. The file is written atomically, with mode
// 0600, within two seconds of a change and on Close. Its directory must exist. Each source needs a
// file of its own. A file that cannot be read, or that belongs to another directory, is reported
// and ignored. Default: none.
func WithStateFile(path string) Option {
	return func(s *options) { s.state, s.hasState = path, true }
}

// WithStartOnDefaults lets Open succeed on defaults and environment variables alone if etcd does
// not answer and there is no file to start from. Default: Open fails.
func WithStartOnDefaults() Option { return func(s *options) { s.startOnDefaults = true } }

// WithEnvironment lets environment variables override keys in this process. The variable of a key
// is the prefix, "_", and the key in upper case, with "_" for everything but ASCII letters and
// digits: with the prefix "SHOP", "http/rate-limit" is SHOP_HTTP_RATE_LIMIT. Values are encoded as
// in etcd; a list may also be comma-separated. Two bound keys with the same variable are an error.
// Open reads the environment once. The prefix must not be empty and may contain "A" to "Z", "0" to
// "9" and "_". Default: none.
func WithEnvironment(prefix string) Option {
	return func(s *options) { s.environment, s.hasEnvironment = prefix, true }
}

// WithMaxValueBytes limits the size of values. Larger ones are invalid. Default:
// [DefaultMaxValueBytes].
func WithMaxValueBytes(n int) Option { return func(s *options) { s.maxBytes = n } }

// WithErrorHandler sets a function that is called with a [*BadValueError] for each invalid value
// and, with an empty key, for each file that cannot be read or written. Calls are made one at a
// time on a goroutine of their own. If 256 calls are waiting, the older half is dropped. Default:
// none; errors also appear in the log, in Err and in Stats.
func WithErrorHandler(f func(key string, rev int64, err error)) Option {
	return func(s *options) { s.errorHandler = f }
}

// WithLogger sets the logger for invalid values, file errors, panics, and starts without etcd.
// Levels are Warn and Error; values never appear. Default: the client's logger, or [slog.Default]
// from Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// newOptions applies and validates the options and the other arguments of Open.
func newOptions(c Client, dir string, opts []Option) (options, error) {
	s := options{maxBytes: DefaultMaxValueBytes}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	_, err := keyspace.Dir(dir)
	validationErrs := []error{err}
	if c == nil || c.KV() == nil || c.Watcher() == nil {
		validationErrs = append(validationErrs, errs.Invalidf("the client is nil or lacks a store or watcher"))
	} else {
		s.scope = scope.Of(c.KV())
	}
	s.logger = s.scope.Logger(s.logger)
	if s.hasFallback && s.fallback == "" {
		validationErrs = append(validationErrs, errs.Invalidf("WithFallbackFile: no path"))
	}
	if s.hasState {
		validationErrs = append(validationErrs, checkStatePath(s.state))
	}
	if s.hasEnvironment {
		validationErrs = append(validationErrs, checkPrefix(s.environment))
	}
	if s.maxBytes < 1 {
		validationErrs = append(validationErrs, errs.Invalidf("WithMaxValueBytes: %d bytes", s.maxBytes))
	}
	return s, errors.Join(validationErrs...)
}

// checkStatePath returns an error if the state file could not be written.
func checkStatePath(path string) error {
	if path == "" {
		return errs.Invalidf("WithStateFile: no path")
	}
	dir := filepath.Dir(path)
	if st, err := os.Stat(dir); err != nil {
		return errs.Invalidf("WithStateFile: %w", err)
	} else if !st.IsDir() {
		return errs.Invalidf("WithStateFile: %q is not a directory", dir)
	}
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return errs.Invalidf("WithStateFile: %q is not a regular file", path)
	}
	return nil
}
