package config

import (
	"bytes"
	"strings"
)

// listener is a callback for changes.
type listener struct {
	*listenerQueue[Change]

	key string // or a prefix, which ends in "/" or is ""
}

// pick returns the changes that concern the listener.
func (l *listener) pick(changes []Change) (out []Change) {
	for _, c := range changes {
		if c.Key == l.key || ((l.key == "" || strings.HasSuffix(l.key, "/")) && strings.HasPrefix(c.Key, l.key)) {
			out = append(out, c)
		}
	}
	return out
}

// Follow calls f for each change of a key or, if keyOrPrefix is empty or ends in "/", of each key
// below it. Calls are made one at a time on a goroutine of their own, ordered by revision and then
// by key, after Load of the values bound to the key returns the new state. Only changes of the
// effective value count: writing the same bytes or a value overridden by a stronger layer is not a
// change. The first call is for the first change after Follow; [Source.All] returns the state
// before it.
//
// If f is slow and more than 256 changes are waiting, the changes of each key are merged into one
// whose Old is the value last passed to f. Memory is therefore bounded, and no other callback is
// delayed, even if f never returns. A panic of f is recovered, counted and logged. If etcd has
// compacted changes made during an outage, several changes of a key arrive as one.
//
// stop waits until f is no longer running; f is not called again. Called from f, or from another
// callback of this package, it does not wait. stop is idempotent.
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

// mergeChanges merges the changes of each key at the position of the last one. Changes that cancel
// each other out are dropped.
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
