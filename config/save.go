package config

import (
	"maps"
	"time"
)

// saveInterval is how much time passes between a change and the write of the state file, and so between writes.
const saveInterval = time.Second

// saveRetryInterval is how much time passes between a write that has failed and the next.
const saveRetryInterval = 10 * time.Second

// markStateDirty says that the state file is out of date.
func (s *Source) markStateDirty() {
	select {
	case s.stateDirty <- struct{}{}:
	default:
	}
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
		pause.Reset(wait) // other changes come along
		select {
		case <-pause.C:
		case <-s.ctx.Done():
			return // Close writes it
		}
		wait = saveInterval
		if err := s.save(); err != nil {
			s.report("", 0, err)
			s.markStateDirty()
			wait = saveRetryInterval
		}
	}
}

// finalSave writes the state file at the end, be it only for the time that it tells.
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
		return nil // the file is as good as what is in memory, and says how old that is
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

// lastGood is etcd's state, with what bound values can use in the place of what they cannot, all as of one revision.
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
