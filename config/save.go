package config

import (
	"maps"
	"time"

	"github.com/etcdkit/etcdkit/internal/notify"
)

// saveInterval is the delay between a change and the write of the state file, and the minimum
// between two writes.
const saveInterval = time.Second

// saveRetryInterval is the delay after a failed write.
const saveRetryInterval = 10 * time.Second

// markStateDirty schedules a write of the state file.
func (s *Source) markStateDirty() {
	notify.Token(s.stateDirty)
}

// saveLoop writes the state file after changes, until the source is closed.
func (s *Source) saveLoop() {
	wait := saveInterval
	pause := time.NewTimer(wait)
	defer pause.Stop()
	for {
		select {
		case <-s.stateDirty:
		case <-s.ctx.Done():
			return
		}
		pause.Reset(wait) // collect further changes
		select {
		case <-pause.C:
		case <-s.ctx.Done():
			return // finalSave follows
		}
		wait = saveInterval
		if err := s.save(); err != nil {
			s.reportError(err)
			s.markStateDirty()
			wait = saveRetryInterval
		}
	}
}

// finalSave writes the state file on Close, if only to update its time.
func (s *Source) finalSave() error {
	if !s.options.hasState {
		return nil
	}
	return s.save()
}

// save writes the state file.
func (s *Source) save() error {
	etcd, rev, live := s.lastGood()
	if !live {
		return nil // the file already holds this state, with its true age
	}
	b, err := formatState(s.dir, rev, time.Now().Add(-s.replica.Load().Age()), etcd)
	if err == nil {
		err = writeAtomically(s.options.state, b)
	}
	if err != nil {
		s.stateErrors.Add(1)
		return err
	}
	s.stateWrites.Add(1)
	return nil
}

// lastGood returns etcd's state at one revision, with the last valid state of each bound value
// whose current state is invalid.
func (s *Source) lastGood() (etcd layer, rev int64, live bool) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.mu.RLock()
	bounds := s.boundValues
	etcd, rev, live = maps.Clone(s.layers.etcd), s.appliedRevision, s.origin == Live
	s.mu.RUnlock()
	for _, b := range bounds {
		if b.Err() != nil {
			b.restoreLastGood(etcd)
		}
	}
	return etcd, rev, live
}
