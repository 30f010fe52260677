package lock

import (
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// The dirs below a name in which its other queues are: no name has a segment that is called so.
const (
	rwDir  = ".rw/"
	semDir = ".sem/"
	barDir = ".bar/"
)

// checkName refuses what is no name of a lock or an election. A leading slash is part of the keys of
// a locker that lays names verbatim: other clients have such names.
func (s *settings) checkName(name string) error {
	rest := name
	if s.dirSet && s.dir == "" && len(name) > 1 {
		rest = strings.TrimPrefix(name, "/")
	}
	if err := keyspace.Name(rest); err != nil {
		return err
	}
	for segment := range strings.SplitSeq(name, "/") {
		if slices.Contains([]string{rwDir, semDir, barDir}, segment+"/") {
			return fmt.Errorf("%w: name %s: %q is where locks keep their own queues", errs.Invalid, errs.Quote(name), segment)
		}
	}
	return nil
}

// direct reports whether key is a direct child of prefix, as the keys of a queue are. What lies deeper belongs to a longer
// name.
func direct(prefix, key string) bool {
	return len(key) > len(prefix) && strings.IndexByte(key[len(prefix):], '/') < 0
}

// free is what must hold for prefix to have no direct child, given some keys below it that are none: that there is nothing
// in between them. It costs a compare for each dir among them and one more.
func free(prefix string, deeper []string) []clientv3.Cmp {
	dirs := make([]string, 0, len(deeper))
	for _, key := range deeper {
		end := strings.IndexByte(key[len(prefix):], '/')
		dirs = append(dirs, key[:len(prefix)+end+1])
	}
	slices.Sort(dirs)
	from := prefix
	var all []clientv3.Cmp
	for _, dir := range slices.Compact(dirs) {
		if from < dir {
			all = append(all, absent(from, dir))
		}
		from = keyspace.End(dir)
	}
	return append(all, absent(from, keyspace.End(prefix)))
}

// absent holds while there is no key from from up to, not including, to.
func absent(from, to string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(from), "=", 0).WithRange(to)
}
