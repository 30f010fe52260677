package etcdkit

import "slices"

// note records the result of a probe.
func (one *post) note(err error) {
	one.err = err
	if err != nil {
		one.failed, one.good = one.failed+1, 0
		if one.byRead && !leaderless(err) {
			one.failed = failuresOut // a failed read confirms that the member is slow
		}
		return
	}
	one.failed, one.good = 0, one.good+1
	one.byRead = one.byRead && one.out
}

// judge evaluates the probes and decides which endpoints are evicted.
func (p *patrol) judge() {
	answering := false
	for _, one := range p.posts {
		switch {
		case one.failed >= failuresOut:
			one.out = true
		case one.good >= successesIn, one.good > 0 && !one.known:
			one.out = false
		}
		one.known = one.known || one.good > 0
		answering = answering || !one.out && one.good > 0
	}
	if answering {
		return
	}
	// If no endpoint in use answers, every other one that answers is readmitted at once. If none
	// answers at all, all are readmitted, but only after the last one in use has failed often
	// enough: until then it is the better choice.
	some := slices.ContainsFunc(p.posts, func(one *post) bool { return one.good > 0 })
	all := !some && len(p.in()) == 0
	for _, one := range p.posts {
		if all || one.good > 0 {
			one.out = false
		}
	}
}

// leftOut returns the evicted endpoints, and the numbers of evictions and readmissions so far.
func (p *patrol) leftOut() (out []string, evicted, readmitted uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.posts {
		if one.out {
			out = append(out, one.ep)
		}
	}
	return out, p.evicted, p.readmitted
}
