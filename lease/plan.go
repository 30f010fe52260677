package lease

import "time"

// plan is what is to be done with all sessions.
type plan struct {
	due     []outstanding // to be renewed now
	next    time.Time     // when the next session will be due, if there is one that is not yet
	silence time.Time     // when the stream will have been silent for too long
}

// farOff is when nothing is planned.
const farOff = 24 * time.Hour

// plan looks at all sessions. When there are none the loop has to end: the next session gets a new one.
func (l *loop) plan(now time.Time) (p plan, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		l.running = false
		return p, false
	}
	p.next, p.silence = now.Add(farOff), now.Add(farOff)
	for s, t := range l.sessions {
		switch {
		case !t.sent.IsZero():
			since := t.sent
			if since.Before(l.heard) {
				since = l.heard
			}
			p.silence = earlier(p.silence, since.Add(t.ttl/patience))
		case t.due.After(now):
			p.next = earlier(p.next, t.due)
		default:
			p.due = append(p.due, outstanding{s, t})
			if l.link != nil && l.link.stream == nil {
				p.silence = earlier(p.silence, l.link.begun.Add(t.ttl/patience))
			}
		}
	}
	return p, true
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
