package config

import (
	"bytes"
	"strings"
)

// listener is a function that is told of changes.
type listener struct {
	*listenerQueue[Change]

	key string // or a prefix, which ends in "/" or is ""
}

// pick returns those changes that the listener is to be told of.
func (l *listener) pick(changes []Change) (out []Change) {
	for _, c := range changes {
		if c.Key == l.key || ((l.key == "" || strings.HasSuffix(l.key, "/")) && strings.HasPrefix(c.Key, l.key)) {
			out = append(out, c)
		}
	}
	return out
}

// Follow calls f for each change of a key, or, where keyOrPrefix ends in "/" or is "", of all keys below it: one at a
// time, by revision, and in key order within one, in a goroutine of its own, after Load of the values bound to the key
// has changed. A change is one of bytes that are in force: a put of what is there already is none, nor is one that a
// stronger layer hides. It begins with the first change after the call; what is there before, [Source.All] tells.
//
// When f is slow and more than 256 changes wait, the changes of each key become one, whose Old is what f was told last;
// so memory is bounded, and nobody else is held up, even if f never returns. A panic of f is contained, counted and
// logged, and the next change comes. Where the history of etcd was lost during an outage, several changes may come as
// one.
//
// stop returns when no call runs any more and none will begin; called by f itself, or by another function that this
// package has called, it does not wait. It is idempotent.
func (s *Source) Follow(keyOrPrefix string, f func(Change)) (stop func()) {
	if f == nil {
		return func() {}
	}
	l := &listener{key: keyOrPrefix}
	l.listenerQueue = newListenerQueue(func(c Change) { s.runCallback("listener", c.Key, func() { f(c) }) }, mergeChanges)
	forget := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
	}
	stop, ok := s.startCallback(l.listenerQueue, l.run, forget)
	if ok {
		s.mu.Lock()
		s.listeners[l] = struct{}{}
		s.mu.Unlock()
	}
	return stop
}

// mergeChanges makes one change of all changes of a key, at the place of the last, and none where they cancel out.
func mergeChanges(queue []Change) []Change {
	first := make(map[string][]byte, len(queue))
	last := make(map[string]int, len(queue))
	for i, c := range queue {
		if _, seen := last[c.Key]; !seen {
			first[c.Key] = c.Old
		}
		last[c.Key] = i
	}
	var out []Change
	for i, c := range queue {
		if last[c.Key] != i {
			continue
		}
		c.Old = first[c.Key]
		if (c.Old == nil) != (c.New == nil) || !bytes.Equal(c.Old, c.New) {
			out = append(out, c)
		}
	}
	return out
}
