package etcdkit

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// errNoAnswer replaces the error of a probe that timed out.
var errNoAnswer = errors.New("no answer")

// reason returns why the last probe failed, for people.
func (one *post) reason() error {
	if errors.Is(one.err, context.DeadlineExceeded) || status.Code(one.err) == codes.DeadlineExceeded {
		return errNoAnswer
	}
	return wire.Plain(one.err)
}

// logOutages logs evictions, readmissions, and the start and end of a time in which no endpoint
// answers. Both are warnings, so that a log from level Warn up includes the end.
func (p *patrol) logOutages() {
	var records []func() // written after mu is unlocked: a handler may use the client
	p.mu.Lock()
	now, silent := time.Now(), len(p.posts) > 0
	var errs endpointErrors
	for _, one := range p.posts {
		ep, err := one.ep, one.reason()
		begins, ends, lasted := one.log.Update(one.out || one.log.Open() && one.good == 0, now)
		switch {
		case begins:
			records = append(records, func() { p.logger.Warn("etcd endpoint evicted", "endpoint", ep, "error", err) })
		case ends:
			records = append(records, func() {
				p.logger.Warn("etcd endpoint readmitted", "endpoint", ep, "after", lasted.Round(time.Millisecond))
			})
		}
		silent = silent && one.failed >= failuresOut
		errs = append(errs, &EndpointError{Endpoint: ep, Err: err})
	}
	begins, ends, lasted := p.silence.Update(silent, now)
	p.mu.Unlock()
	for _, write := range records {
		write()
	}
	switch {
	case begins:
		p.logger.Warn("no etcd endpoint answers", "error", errs)
	case ends:
		p.logger.Warn("etcd endpoints answer again", "after", lasted.Round(time.Millisecond))
	}
}
