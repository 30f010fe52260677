package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/logging"
)

// Option is an option of [Open].
type Option func(*options)

// options is what the options add up to.
type options struct {
	fallback, state       string
	hasFallback, hasState bool
	environment           string
	hasEnvironment        bool
	startOnDefaults       bool
	maxBytes              int
	errorHandler          func(key string, rev int64, err error)
	logger                *slog.Logger
}

// DefaultMaxValueBytes is the size of the largest value that is used unless [WithMaxValueBytes] says otherwise. It is
// also what etcd accepts in one request unless it is told otherwise.
const DefaultMaxValueBytes = 1536 * 1024

// WithFallbackFile gives values to the keys that etcd has not, and to all keys that the program needs while etcd has not
// been reached yet. The file is read once, by Open, and never written: it is yours, such as a ConfigMap or a file in the
// image. It is YAML, or JSON if its name ends in ".json", and holds one mapping from keys, spelled as etcd has them, to
// values: text, numbers and booleans for what is text in etcd, and anything else for what is JSON there.
//
//	http/rate-limit: 100
//	http/timeout: 5s
//	banner: {text: hello, languages: [en, de]}
//
// A mapping is also the values of the keys below its key: banner/text is hello. So the first two lines may be written as
//
//	http: {rate-limit: 100, timeout: 5s}
//
// [Source.All] and [Source.Keys] show the keys that the file names, not those of the fields of a mapping.
//
// Text that YAML reads as something else, such as yes, 1.10 or 0x10, needs quotes; a key that does is refused.
// Open fails when it is not there or cannot be read, etcd up or not, so that this shows on a good day. Default: none.
func WithFallbackFile(path string) Option {
	return func(s *options) { s.fallback, s.hasFallback = path, true }
}

// WithStateFile keeps a copy of etcd's state in a file, from which a process starts that cannot reach etcd. Of a bound
// value the copy has the last state that could be used. The library writes it, readable by its user alone (0600),
// atomically, within two seconds of a change and on Close. Its directory must exist. One file belongs to one source. A
// file that cannot be read, or that is of another dir, is reported and taken for none. Default: none.
func WithStateFile(path string) Option {
	return func(s *options) { s.state, s.hasState = path, true }
}

// WithStartOnDefaults lets Open succeed when etcd does not answer and there is no file to start from, on defaults and the
// environment alone. Default: Open fails then.
func WithStartOnDefaults() Option { return func(s *options) { s.startOnDefaults = true } }

// WithEnvironment lets variables of the environment override keys, for one process. The variable of a key is the prefix,
// "_", and the key in upper case with "_" for all that is no letter and no digit of ASCII: with the prefix "SHOP",
// "http/rate-limit" is SHOP_HTTP_RATE_LIMIT. Its value is text as etcd would have it; a list may also be separated by
// commas. Two bound keys with the same variable are an error. The environment is read once, by Open. The prefix consists of "A" to "Z", "0" to "9" and "_", and is not empty. Default: none.
func WithEnvironment(prefix string) Option {
	return func(s *options) { s.environment, s.hasEnvironment = prefix, true }
}

// WithMaxValueBytes sets the size of the largest value that is decoded; a larger one is a bad value. Default
// [DefaultMaxValueBytes].
func WithMaxValueBytes(n int) Option { return func(s *options) { s.maxBytes = n } }

// WithErrorHandler has f told of each value that cannot be used, as a [*BadValueError], and, with the key "", of files
// that cannot be read or written. It runs in a goroutine of its own, one call at a time; when it is slow and 256 calls
// wait, the older half is dropped. Default: none, besides the log, Err and the Stats.
func WithErrorHandler(f func(key string, rev int64, err error)) Option {
	return func(s *options) { s.errorHandler = f }
}

// WithLogger sets the logger for bad values, files, panics, a start without etcd and its end, at the levels Warn and
// Error. Values never appear. Default: the client's logger, else [slog.Default] from the level Warn up.
func WithLogger(l *slog.Logger) Option { return func(s *options) { s.logger = l } }

// newOptions applies the options; what is wrong with them, and with the other arguments, is the error.
func newOptions(c Client, dir string, opts []Option) (options, error) {
	s := options{maxBytes: DefaultMaxValueBytes}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	if h, ok := c.(interface{ Logger() *slog.Logger }); ok && s.logger == nil {
		s.logger = h.Logger()
	}
	s.logger = logging.OrDefault(s.logger)
	_, err := keyspace.Dir(dir)
	validationErrs := []error{err}
	if c == nil || c.KV() == nil || c.Watcher() == nil {
		validationErrs = append(validationErrs, invalid("no client, or one without a store or a watcher"))
	}
	if s.hasFallback && s.fallback == "" {
		validationErrs = append(validationErrs, invalid("WithFallbackFile: no path"))
	}
	if s.hasState {
		validationErrs = append(validationErrs, checkStatePath(s.state))
	}
	if s.hasEnvironment {
		validationErrs = append(validationErrs, checkPrefix(s.environment))
	}
	if s.maxBytes < 1 {
		validationErrs = append(validationErrs, invalid("WithMaxValueBytes: %d bytes", s.maxBytes))
	}
	return s, errors.Join(validationErrs...)
}

// checkStatePath refuses a path that nothing can be written to, before that is found out on a bad day.
func checkStatePath(path string) error {
	if path == "" {
		return invalid("WithStateFile: no path")
	}
	dir := filepath.Dir(path)
	if st, err := os.Stat(dir); err != nil {
		return invalid("WithStateFile: %w", err)
	} else if !st.IsDir() {
		return invalid("WithStateFile: %q is no directory", dir)
	}
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return invalid("WithStateFile: %q is no regular file", path)
	}
	return nil
}
