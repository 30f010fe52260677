package integration_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// trespasses counts, in etcd's own history of a dir, the writes below sub that were made by whoever
// held the lock of that name then, and those that were not. A token is rightful while the key is
// first in the queue that was so, and was put last, no later than at the token's revision: earlier
// holders have lower tokens, and later ones have made one of both rise.
func trespasses(changes []change, sub string) (rightful, trespassing int) {
	type entry struct{ create, mod int64 }
	queues := map[string]map[string]entry{}
	first := func(name string) (key string, e entry) {
		for k, one := range queues[name] {
			if key == "" || one.create < e.create {
				key, e = k, one
			}
		}
		return key, e
	}
	since := map[string]int64{} // when the first key of a name became the first
	for _, ch := range changes {
		if rest, ok := strings.CutPrefix(ch.key, "locks/"); ok {
			name := rest[:strings.LastIndexByte(rest, '/')]
			if queues[name] == nil {
				queues[name] = map[string]entry{}
			}
			was, _ := first(name)
			e, there := queues[name][ch.key]
			switch {
			case ch.deleted:
				delete(queues[name], ch.key)
			case there:
				queues[name][ch.key] = entry{e.create, ch.rev}
			default:
				queues[name][ch.key] = entry{ch.rev, ch.rev}
			}
			if is, _ := first(name); is != was || ch.deleted && ch.key == was {
				since[name] = ch.rev
			}
			continue
		}
		name, ok := strings.CutPrefix(ch.key, sub+"/")
		if !ok || ch.deleted {
			continue
		}
		_, e := first(name)
		token, err := strconv.ParseInt(ch.value, 10, 64)
		if err == nil && e.mod != 0 && token >= max(since[name], e.mod) {
			rightful++
		} else {
			trespassing++
		}
	}
	return rightful, trespassing
}

func TestTrespass_IsDistinguishedFromRightfulWrites(t *testing.T) {
	t.Parallel()
	queue := func(key string, rev int64) change { return change{key: "locks/a/" + key, rev: rev} }
	gone := func(key string, rev int64) change {
		return change{key: "locks/a/" + key, rev: rev, deleted: true}
	}
	write := func(token string, rev int64) change { return change{key: "guarded/a", value: token, rev: rev} }
	for name, tc := range map[string]struct {
		history              []change
		rightful, trespasses int
	}{
		"by the holder":                         {[]change{queue("x", 5), write("5", 6), queue("y", 7), write("5", 8)}, 2, 0},
		"without a lock":                        {[]change{write("5", 6)}, 0, 1},
		"after it is gone":                      {[]change{queue("x", 5), gone("x", 6), write("5", 7)}, 0, 1},
		"by the next":                           {[]change{queue("x", 5), queue("y", 6), gone("x", 7), write("7", 8)}, 1, 0},
		"by the next, with its key's revision":  {[]change{queue("x", 5), queue("y", 6), gone("x", 7), write("6", 8)}, 0, 1},
		"by the last, after the next":           {[]change{queue("x", 5), queue("y", 6), gone("x", 7), write("5", 8)}, 0, 1},
		"after the next of the same process":    {[]change{queue("x", 5), queue("x", 6), write("6", 7), write("5", 8)}, 1, 1},
		"by the holder of another name":         {[]change{queue("x", 5), {key: "guarded/b", value: "5", rev: 6}}, 0, 1},
		"below something else":                  {[]change{{key: "other/a", value: "5", rev: 6}, {key: "guarded/a", rev: 7, deleted: true}}, 0, 0},
		"by one whose key was taken and remade": {[]change{queue("x", 5), gone("x", 6), queue("x", 7), write("5", 8)}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rightful, trespassing := trespasses(tc.history, "guarded")
			assert.Equal(t, tc.rightful, rightful)
			assert.Equal(t, tc.trespasses, trespassing)
		})
	}
}
