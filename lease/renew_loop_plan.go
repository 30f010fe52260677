package lease

import "time"

// renewPlan is what is to be done with all sessions.
type renewPlan struct {
	due      []pendingRenewal // to be renewed now
	next     time.Time        // when the next session will be due, if there is one that is not yet
	silentAt time.Time        // when the stream will have been silent for too long
}

// idleInterval is when nothing is planned.
const idleInterval = 24 * time.Hour

// plan looks at all sessions. When there are none the loop has to end: the next session gets a new one.
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
