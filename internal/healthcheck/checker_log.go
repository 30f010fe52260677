package healthcheck

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// errNoAnswer replaces the error of a probe that timed out.
var errNoAnswer = errors.New("no answer")

// cause returns why the last probe failed, for people.
func (s *endpointState) cause() error {
	if errors.Is(s.err, context.DeadlineExceeded) || status.Code(s.err) == codes.DeadlineExceeded {
		return errNoAnswer
	}
	return wire.Plain(s.err)
}

// logOutages logs evictions, readmissions, and the start and end of a time in which no endpoint
// answers. Both are warnings, so that a log from level Warn up includes the end.
func (c *Checker) logOutages() {
	var records []func() // written after mu is unlocked: a handler may use the client
	c.mu.Lock()
	now, noneAnswers := time.Now(), len(c.states) > 0
	var all endpoint.Errors
	for _, s := range c.states {
		ep, err := s.endpoint, s.cause()
		begins, ends, lasted := s.log.Update(s.evicted || s.log.Open() && s.successes == 0, now)
		switch {
		case begins:
			records = append(records, func() { c.cfg.Logger.Warn("etcd endpoint evicted", "endpoint", ep, "error", err) })
		case ends:
			records = append(records, func() {
				c.cfg.Logger.Warn("etcd endpoint readmitted", "endpoint", ep, "after", lasted.Round(time.Millisecond))
			})
		}
		noneAnswers = noneAnswers && s.failures >= failureThreshold
		all = append(all, &endpoint.Error{Endpoint: ep, Err: err})
	}
	begins, ends, lasted := c.outage.Update(noneAnswers, now)
	c.mu.Unlock()
	for _, write := range records {
		write()
	}
	switch {
	case begins:
		c.cfg.Logger.Warn("no etcd endpoint answers", "error", all)
	case ends:
		c.cfg.Logger.Warn("etcd endpoints answer again", "after", lasted.Round(time.Millisecond))
	}
}
