package lock

import (
	"slices"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// The dirs of the other queues of a name. No segment of a name may equal one of them.
const (
	rwDir      = ".rw/"
	semDir     = ".sem/"
	barrierDir = ".bar/"
)

// checkName returns an error if name is not a valid name of a lock or an election. If the dir of
// the locker is "", a leading slash is part of the key, because other clients use such names.
func (s *options) checkName(name string) error {
	key := name
	if s.dirSet && s.dir == "" && len(name) > 1 {
		key = strings.TrimPrefix(name, "/")
	}
	if err := keyspace.Name(key); err != nil {
		return err
	}
	for segment := range strings.SplitSeq(name, "/") {
		if slices.Contains([]string{rwDir, semDir, barrierDir}, segment+"/") {
			return errs.Invalidf("name %s: segment %q is reserved", errs.Quote(name), segment)
		}
	}
	return nil
}

// isDirectChild reports whether key is a direct child of prefix, as the keys of a queue are. Keys
// further below belong to longer names.
func isDirectChild(prefix, key string) bool {
	return len(key) > len(prefix) && strings.IndexByte(key[len(prefix):], '/') < 0
}
