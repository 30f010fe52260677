package etcdkit

import "time"

// minLogInterval is the least time between two records that say that an outage of the same thing begins.
const minLogInterval = time.Minute

// outageLog decides which outages of one thing are logged: each with one record when it begins and one when it ends.
// An outage that begins within minLogInterval of an earlier record is logged once the interval is over, if it lasts.
type outageLog struct {
	open  bool      // the beginning was logged, the end was not
	began time.Time // when the beginning was logged last
}

// update takes the state at now and reports which record is to be written.
func (o *outageLog) update(down bool, now time.Time) (begins, ends bool) {
	switch {
	case down && !o.open && (o.began.IsZero() || now.Sub(o.began) >= minLogInterval):
		o.open, o.began = true, now
		return true, false
	case !down && o.open:
		o.open = false
		return false, true
	}
	return false, false
}

// logOutages logs the endpoints that are evicted and readmitted, and the time in which none answers. Both records of an
// outage are warnings, so that a log from Warn up has the end as well.
func (p *patrol) logOutages() {
	var records []func() // written without the lock: a handler may use the client
	p.mu.Lock()
	now, silent := time.Now(), len(p.posts) > 0
	var errs endpointErrors
	for _, one := range p.posts {
		ep, err, lasted := one.ep, one.err, now.Sub(one.log.began)
		begins, ends := one.log.update(one.out || one.log.open && one.good == 0, now)
		switch {
		case begins:
			records = append(records, func() { p.logger.Warn("etcd endpoint evicted", "endpoint", ep, "error", err) })
		case ends:
			records = append(records, func() { p.logger.Warn("etcd endpoint readmitted", "endpoint", ep, "after", lasted) })
		}
		silent = silent && one.failed >= failuresOut
		errs = append(errs, &EndpointError{Endpoint: ep, Err: err})
	}
	lasted := now.Sub(p.silence.began)
	begins, ends := p.silence.update(silent, now)
	p.mu.Unlock()
	for _, write := range records {
		write()
	}
	switch {
	case begins:
		p.logger.Warn("no etcd endpoint answers", "error", errs)
	case ends:
		p.logger.Warn("etcd endpoints answer again", "after", lasted)
	}
}
