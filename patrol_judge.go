package etcdkit

import "slices"

// note takes the answer to a probe.
func (one *post) note(err error) {
	one.err = err
	if err != nil {
		one.failed, one.good = one.failed+1, 0
		if one.byRead && !leaderless(err) {
			one.failed = failuresOut // its calls were settled elsewhere, and this was the second look
		}
		return
	}
	one.failed, one.good = 0, one.good+1
	one.byRead = one.byRead && one.out
}

// judge decides which endpoints are out.
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
	// Nothing that is in answers: whatever does comes back at once. If nothing does, everything, but not before the last
	// one in use has failed as often as it takes: until then what is known to be bad is worse.
	some := slices.ContainsFunc(p.posts, func(one *post) bool { return one.good > 0 })
	all := !some && len(p.in()) == 0
	for _, one := range p.posts {
		if all || one.good > 0 {
			one.out = false
		}
	}
}

// leftOut lists the endpoints that are out, and counts how many ever were and came back.
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
