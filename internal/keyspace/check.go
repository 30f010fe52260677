package keyspace

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// MaxName is the maximum length of a name in bytes.
const MaxName = 512

// Dir normalizes a dir to exactly one trailing "/". "" means no dir and stays "". A leading "/" is
// part of the keys and is kept.
//
// The error matches errs.Invalid if dir consists only of slashes, has an empty segment ("a//b"), or
// contains a NUL byte, at which other tools truncate keys. Other bytes are allowed even if they are
// not UTF-8, so that a dir can name any existing tree.
func Dir(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	if strings.IndexByte(dir, 0) >= 0 {
		return "", fmt.Errorf("%w: dir %s holds a NUL byte", errs.Invalid, errs.Quote(dir))
	}
	end := len(dir)
	for end > 0 && dir[end-1] == '/' {
		end--
	}
	if end == 0 {
		return "", fmt.Errorf("%w: dir %s has no name: did you mean \"\"", errs.Invalid, errs.Quote(dir))
	}
	if strings.Contains(dir[:end], "//") {
		return "", fmt.Errorf("%w: dir %s has an empty segment: did you mean %s",
			errs.Invalid, errs.Quote(dir), errs.Quote(normalizeSlashes(dir[:end])+"/"))
	}
	if end < len(dir) {
		return dir[:end+1], nil
	}
	return dir + "/", nil
}

// normalizeSlashes replaces each run of slashes by one slash.
func normalizeSlashes(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

// Prefix checks a prefix. It must be "" or end in "/", so that "app" does not also select
// "app2/secret". If partial is set, every prefix is allowed. The error matches errs.Invalid and
// suggests a trailing "/" or WithPartialPrefix.
func Prefix(prefix string, partial bool) error {
	if partial || prefix == "" || prefix[len(prefix)-1] == '/' {
		return nil
	}
	return fmt.Errorf("%w: prefix %s does not end in \"/\": did you mean %s, or WithPartialPrefix",
		errs.Invalid, errs.Quote(prefix), errs.Quote(prefix+"/"))
}

// Name checks the name of a lock, an election or a service. It must be 1 to [MaxName] bytes of
// valid UTF-8 without control characters and without a leading, trailing or doubled "/". The error
// matches errs.Invalid, and errs.TooLarge if the name is too long.
func Name(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: name is empty", errs.Invalid)
	case len(name) > MaxName:
		return fmt.Errorf("%w: name is %d bytes, the limit is %d", errs.TooLarge, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: name %s is not UTF-8", errs.Invalid, errs.Quote(name))
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: name %s holds a control character", errs.Invalid, errs.Quote(name))
	case name[0] == '/', name[len(name)-1] == '/', strings.Contains(name, "//"):
		return slashError(name)
	}
	return nil
}

// slashError returns the error for a name with a leading, trailing or doubled slash.
func slashError(name string) error {
	suggestion := strings.Trim(normalizeSlashes(name), "/")
	if suggestion == "" {
		return fmt.Errorf("%w: name %s is nothing but slashes", errs.Invalid, errs.Quote(name))
	}
	return fmt.Errorf("%w: name %s has a leading, trailing or doubled \"/\": did you mean %s",
		errs.Invalid, errs.Quote(name), errs.Quote(suggestion))
}

// Key checks a key. The error matches errs.Invalid if key is empty, and errs.TooLarge if it is
// longer than limit bytes. Any bytes are allowed and taken literally: "../x", NUL, invalid UTF-8.
// If limit is 0 or less, the length is not limited.
func Key(key string, limit int) error {
	if key == "" {
		return fmt.Errorf("%w: key is empty", errs.Invalid)
	}
	if limit > 0 && len(key) > limit {
		return fmt.Errorf("%w: key is %d bytes, the limit is %d", errs.TooLarge, len(key), limit)
	}
	return nil
}
