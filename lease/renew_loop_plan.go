package lease

import "time"

// renewPlan is the state of all renewals at one time.
type renewPlan struct {
	due      []pendingRenewal // to be renewed now
	next     time.Time        // when the next session that is not due yet becomes due
	silentAt time.Time        // when the stream counts as silent for too long
}

// idleInterval is the timer's interval while nothing is planned.
const idleInterval = 24 * time.Hour

// plan visits all sessions and returns what to do. It returns false if there are none: the loop
// must then end, and the next session starts a new one.
func (l *renewLoop) plan(now time.Time) (plan renewPlan, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		l.running = false
		return plan, false
	}
	plan.next, plan.silentAt = now.Add(idleInterval), now.Add(idleInterval)
	for s, sched := range l.sessions {
		switch {
		case !sched.sentAt.IsZero():
			since := sched.sentAt
			if since.Before(l.lastReceived) {
				since = l.lastReceived
			}
			plan.silentAt = earlier(plan.silentAt, since.Add(responseTimeout(sched.ttl)))
		case sched.due.After(now):
			plan.next = earlier(plan.next, sched.due)
		default:
			plan.due = append(plan.due, pendingRenewal{s, sched})
			if l.stream != nil && l.stream.client == nil {
				plan.silentAt = earlier(plan.silentAt, l.stream.startedAt.Add(responseTimeout(sched.ttl)))
			}
		}
	}
	return plan, true
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
