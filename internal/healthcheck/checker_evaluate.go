package healthcheck

import "slices"

// record records the result of a probe.
func (s *endpointState) record(err error) {
	s.err = err
	if err != nil {
		s.failures, s.successes = s.failures+1, 0
		if s.byRead && !IsLeaderless(err) {
			s.failures = failureThreshold // a failed read confirms that the member is slow
		}
		return
	}
	s.failures, s.successes = 0, s.successes+1
	s.byRead = s.byRead && s.evicted
}

// evaluate decides which endpoints are evicted.
func (c *Checker) evaluate() {
	answering := false
	for _, s := range c.states {
		switch {
		case s.failures >= failureThreshold:
			s.evicted = true
		case s.successes >= successThreshold, s.successes > 0 && !s.answered:
			s.evicted = false
		}
		s.answered = s.answered || s.successes > 0
		answering = answering || !s.evicted && s.successes > 0
	}
	if answering {
		return
	}
	// If no endpoint in use answers, every other one that answers is readmitted at once. If none
	// answers at all, all are readmitted, but only after the last one in use has failed often
	// enough: until then it is the better choice.
	anyAnswers := slices.ContainsFunc(c.states, func(s *endpointState) bool { return s.successes > 0 })
	readmitAll := !anyAnswers && len(c.inUse()) == 0
	for _, s := range c.states {
		if readmitAll || s.successes > 0 {
			s.evicted = false
		}
	}
}
