package lock

import (
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

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
	rest := name
	if s.dirSet && s.dir == "" && len(name) > 1 {
		rest = strings.TrimPrefix(name, "/")
	}
	if err := keyspace.Name(rest); err != nil {
		return err
	}
	for segment := range strings.SplitSeq(name, "/") {
		if slices.Contains([]string{rwDir, semDir, barrierDir}, segment+"/") {
			return fmt.Errorf("%w: name %s: %q is where locks keep their own queues", errs.Invalid, errs.Quote(name), segment)
		}
	}
	return nil
}

// direct reports whether key is a direct child of prefix, as the keys of a queue are. Deeper keys
// belong to longer names.
func isDirectChild(prefix, key string) bool {
	return len(key) > len(prefix) && strings.IndexByte(key[len(prefix):], '/') < 0
}

// free returns the comparisons that hold if prefix has no direct child. deeper are keys below
// prefix that are not direct children: the comparisons cover the gaps between their dirs. There is
// one for each dir and one more.
func emptyCompares(prefix string, nested []string) []clientv3.Cmp {
	dirs := make([]string, 0, len(nested))
	for _, key := range nested {
		end := strings.IndexByte(key[len(prefix):], '/')
		dirs = append(dirs, key[:len(prefix)+end+1])
	}
	slices.Sort(dirs)
	from := prefix
	var all []clientv3.Cmp
	for _, dir := range slices.Compact(dirs) {
		if from < dir {
			all = append(all, compareAbsent(from, dir))
		}
		from = keyspace.End(dir)
	}
	return append(all, compareAbsent(from, keyspace.End(prefix)))
}

// absent returns the comparison that holds if no key exists in the range [from, to).
func compareAbsent(from, to string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(from), "=", 0).WithRange(to)
}
