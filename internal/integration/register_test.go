package integration_test

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
)

// ask is one operation on a key.
type ask struct {
	Op    string // get, put, create, replace, delete
	Key   string
	Value string // to be written; no two operations write the same
	Mod   int64  // that replace is conditional on
}

// told is the answer to it.
type told struct {
	Is    outcome
	Value string // that get returned
	Rev   int64  // of the write, or of what a get or a refused write found: 0 when it found nothing
}

type outcome int

const (
	done    outcome = iota
	refused         // the condition did not hold: nothing to delete, changed meanwhile
	exists          // likewise, without saying what was found
	unknown
)

// register is the state of a key: absent, or a value that was written at a revision.
type register struct {
	value string
	mod   int64
}

// registerModel is a key of the store. Each write names the revision that it makes, and is
// conditional, if at all, on the one before. A write of unknown outcome has happened or not.
func registerModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: byKey,
		Init:      func() []any { return []any{register{}} },
		Step: func(state, input, output any) []any {
			return step(state.(register), input.(ask), output.(told))
		},
	}
	return m.ToModel()
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	keys := map[string][]porcupine.Operation{}
	for _, op := range history {
		key := op.Input.(ask).Key
		keys[key] = append(keys[key], op)
	}
	out := make([][]porcupine.Operation, 0, len(keys))
	for _, ops := range keys {
		out = append(out, ops)
	}
	return out
}

// step returns the states that a key can be in after an operation, none if it cannot have gone like
// that.
func step(s register, in ask, out told) []any {
	next := register{value: in.Value, mod: out.Rev}
	allowed := true
	switch in.Op {
	case "get":
		if out.Value == s.value && out.Rev == s.mod {
			return []any{s}
		}
		return nil
	case "create":
		allowed = s.mod == 0
	case "replace":
		allowed = s.mod == in.Mod
	case "delete":
		next, allowed = register{}, s.mod != 0
	}
	switch {
	case out.Is == unknown && allowed:
		return []any{s, next}
	case out.Is == unknown,
		out.Is == exists && !allowed,
		out.Is == refused && !allowed && out.Rev == s.mod:
		return []any{s}
	case out.Is == done && allowed && out.Rev > s.mod:
		return []any{next}
	}
	return nil
}

// settle tells of writes of unknown outcome what etcd's history knows of them: one whose value
// never appeared did not happen, one whose value did appear had happened by then, and where every
// deletion is accounted for there was no other. What is left is few enough for a check to come to
// an end.
func settle(history []porcupine.Operation, changes []change) []porcupine.Operation {
	type deletion struct {
		key string
		rev int64
	}
	written, deletions := map[string]change{}, map[deletion]bool{}
	for _, ch := range changes {
		if ch.deleted {
			deletions[deletion{ch.key, ch.rev}] = true
			continue
		}
		written[ch.value] = ch
	}
	for _, op := range history {
		if in, out := op.Input.(ask), op.Output.(told); in.Op == "delete" && out.Is == done {
			delete(deletions, deletion{in.Key, out.Rev})
		}
	}
	open := map[string]bool{}
	for d := range deletions {
		open[d.key] = true
	}
	var out []porcupine.Operation
	for _, op := range history {
		in := op.Input.(ask)
		ch, happened := written[in.Value]
		switch {
		case op.Output.(told).Is != unknown:
		case in.Op == "delete" && !open[in.Key], in.Op != "delete" && !happened:
			continue
		case in.Op != "delete":
			op.Output, op.Return = told{Rev: ch.rev}, max(ch.seen, op.Call)
		}
		out = append(out, op)
	}
	return out
}

func TestRegister_SettleUsesHistory(t *testing.T) {
	t.Parallel()
	maybe := func(in ask) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: told{Is: unknown}, Call: 1, Return: math.MaxInt64}
	}
	del := porcupine.Operation{Input: ask{Op: "delete", Key: "a"}, Output: told{Rev: 7}, Call: 3, Return: 4}
	got := settle([]porcupine.Operation{
		maybe(ask{Op: "put", Key: "a", Value: "seen"}), maybe(ask{Op: "put", Key: "a", Value: "unseen"}),
		maybe(ask{Op: "delete", Key: "a"}), del, maybe(ask{Op: "delete", Key: "b"}),
	}, []change{
		{key: "a", value: "seen", rev: 6, seen: 9}, {key: "a", deleted: true, rev: 7, seen: 10}, {key: "b", deleted: true, rev: 8, seen: 11},
	})
	assert.Equal(t, []porcupine.Operation{
		{Input: ask{Op: "put", Key: "a", Value: "seen"}, Output: told{Rev: 6}, Call: 1, Return: 9},
		del, maybe(ask{Op: "delete", Key: "b"}),
	}, got)
}

func TestRegisterModel_FindsViolations(t *testing.T) {
	t.Parallel()
	op := func(in ask, out told, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: ret}
	}
	put := func(v string, rev, call, ret int64) porcupine.Operation {
		return op(ask{Op: "put", Value: v}, told{Rev: rev}, call, ret)
	}
	get := func(v string, rev, call, ret int64) porcupine.Operation {
		return op(ask{Op: "get"}, told{Value: v, Rev: rev}, call, ret)
	}
	gone := get // of nothing
	maybe := op(ask{Op: "delete"}, told{Is: unknown}, 2, math.MaxInt64)
	tests := map[string]struct {
		history []porcupine.Operation
		ok      bool
	}{
		"a read of what was written":       {[]porcupine.Operation{put("a", 5, 0, 1), get("a", 5, 2, 3)}, true},
		"a read of what was overwritten":   {[]porcupine.Operation{put("a", 5, 0, 1), put("b", 6, 2, 3), get("a", 5, 4, 5)}, false},
		"a read of what is being written":  {[]porcupine.Operation{put("a", 5, 0, 9), gone("", 0, 1, 2), get("a", 5, 3, 4)}, true},
		"a revision that goes back":        {[]porcupine.Operation{put("a", 5, 0, 1), put("b", 4, 2, 3)}, false},
		"a create of what is there":        {[]porcupine.Operation{put("a", 5, 0, 1), op(ask{Op: "create", Value: "b"}, told{Rev: 6}, 2, 3)}, false},
		"a create that was refused":        {[]porcupine.Operation{put("a", 5, 0, 1), op(ask{Op: "create", Value: "b"}, told{Is: exists}, 2, 3)}, true},
		"a create refused without a cause": {[]porcupine.Operation{op(ask{Op: "create", Value: "b"}, told{Is: exists}, 2, 3)}, false},
		"a replace of what has changed":    {[]porcupine.Operation{put("a", 5, 0, 1), put("b", 6, 2, 3), op(ask{Op: "replace", Value: "c", Mod: 5}, told{Rev: 7}, 4, 5)}, false},
		"a replace refused rightly":        {[]porcupine.Operation{put("a", 5, 0, 1), op(ask{Op: "replace", Value: "c", Mod: 4}, told{Is: refused, Rev: 5}, 2, 3)}, true},
		"a deletion":                       {[]porcupine.Operation{put("a", 5, 0, 1), op(ask{Op: "delete"}, told{Rev: 6}, 2, 3), gone("", 0, 4, 5)}, true},
		"a deletion of nothing":            {[]porcupine.Operation{op(ask{Op: "delete"}, told{Is: refused}, 0, 1), gone("", 0, 4, 5)}, true},
		"a deletion that is undone":        {[]porcupine.Operation{put("a", 5, 0, 1), op(ask{Op: "delete"}, told{Rev: 6}, 2, 3), get("a", 5, 4, 5)}, false},
		"an unknown deletion that came":    {[]porcupine.Operation{put("a", 5, 0, 1), maybe, get("a", 5, 3, 4), gone("", 0, 5, 6)}, true},
		"an unknown deletion that did not": {[]porcupine.Operation{put("a", 5, 0, 1), maybe, get("a", 5, 3, 4)}, true},
		"an unknown deletion made undone":  {[]porcupine.Operation{put("a", 5, 0, 1), maybe, gone("", 0, 3, 4), get("a", 5, 5, 6)}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tc.ok, porcupine.CheckOperations(registerModel(), tc.history))
		})
	}
}
