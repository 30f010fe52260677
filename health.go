package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	// healthWithin bounds the read of a health check. A member that waits for a quorum would return
	// an error only after 7 s.
	healthWithin = 3 * time.Second

	// statusWithin bounds the status call to a single member. It is shorter than healthWithin, so
	// that a frozen member can be told apart from a cluster that does not answer.
	statusWithin = 2 * time.Second
)

// Health is the state of the cluster as seen by the client.
type Health struct {
	// Quorum reports whether a linearizable read succeeded, which requires a majority of the
	// members. It is also false if etcd did not accept the user, which proves nothing about the
	// majority.
	Quorum bool `json:"quorum"`
	// Latency is the duration of that read.
	Latency time.Duration `json:"latency"`
	// ClusterID identifies the cluster. It is 0 if no member answered.
	ClusterID uint64 `json:"clusterID,omitzero"`
	// Leader is the member ID of the leader, or 0 if no member that answered knows one.
	Leader uint64 `json:"leader,omitzero"`
	// Revision is the highest revision reported by a member.
	Revision int64 `json:"revision,omitzero"`
	// Alarms are the raised alarms, such as NOSPACE. Reads may succeed while one is raised.
	Alarms []string `json:"alarms,omitzero"`
	// Members are all members, including those that did not answer.
	Members []Member `json:"members"`
}

// Health makes a linearizable read and fetches the status of each member, concurrently. It writes
// nothing. The error is that of the read and says if there is no quorum. Health is filled in as far
// as possible even if there is an error. A permission error counts as success, because it proves
// that the cluster answered.
//
// Health takes at most 3 s, or less if ctx ends first. It costs one linearizable read and two RPCs
// to each endpoint.
func (c *Client) Health(ctx context.Context) (Health, error) {
	const op = "health"
	if ctx == nil {
		return Health{}, refuse(op, fmt.Errorf("%w: nil context", ErrInvalid))
	}
	h, err := c.health(ctx, func([]answer) {})
	if err != nil {
		return h, refuse(op, err)
	}
	return h, nil
}

// health implements Health. It calls heard with the answers of the endpoints, possibly while the
// read is still running.
func (c *Client) health(ctx context.Context, heard func([]answer)) (h Health, err error) {
	var answers []answer
	var wg sync.WaitGroup
	wg.Go(func() {
		bounded, stop := context.WithTimeout(ctx, healthWithin)
		defer stop()
		answers = c.survey(bounded)
		heard(answers)
	})
	bounded, stop := context.WithTimeout(ctx, healthWithin)
	defer stop()
	began := time.Now()
	err = c.ask(bounded)
	h.Quorum, h.Latency = err == nil, time.Since(began)
	wg.Wait()
	h.Members = c.members(answers, &h)
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, context.Canceled) {
		err = h.explain(err)
	}
	return h, err
}

// ask makes the linearizable read.
func (c *Client) ask(ctx context.Context) error {
	if c.isClosed() {
		return errClientClosed
	}
	_, err := c.store.Exists(ctx, probeKey)
	if errors.Is(err, ErrPermission) {
		return nil
	}
	if err != nil {
		return reasonOf(err)
	}
	return nil
}

// explain adds to the error of a read what the members' answers prove. Members without an endpoint
// were not asked and are not counted as failed. An endpoint that does not answer belongs to some
// member, even if it is unknown to which.
func (h *Health) explain(err error) error {
	var voters, reachable, failed int
	for _, m := range h.Members {
		if m.Learner {
			continue
		}
		if m.ID != 0 {
			voters++
		}
		switch {
		case m.Reachable:
			reachable++
		case m.Endpoint != "":
			failed++
		}
	}
	failed = min(failed, voters-reachable) // several endpoints may belong to one member
	switch {
	case reachable == 0:
		return fmt.Errorf("no member answers: %w", err)
	case failed > (voters-1)/2:
		return fmt.Errorf("no quorum: %d of %d members answer: %w", reachable, voters, err)
	case h.Leader == 0:
		return fmt.Errorf("no leader known to the %d members that answer: %w", reachable, err)
	}
	return err
}

// Members asks each endpoint for its status and for the list of members, and merges the answers.
// The list is that of the most advanced member that answers. It is not linearizable, so that it is
// available without a quorum. If no endpoint answers, the error contains the cause for each and
// matches [ErrUnavailable], or [ErrUnauthenticated] if etcd did not accept the user.
//
// Members takes at most 2 s, or less if ctx ends first. It costs two RPCs to each endpoint.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	const op = "members"
	if ctx == nil {
		return nil, refuse(op, fmt.Errorf("%w: nil context", ErrInvalid))
	}
	if c.isClosed() {
		return nil, refuse(op, errClientClosed)
	}
	var h Health
	answers := c.survey(ctx)
	all := c.members(answers, &h)
	if h.ClusterID != 0 {
		return all, nil
	}
	condition, bad := ErrUnavailable, make(endpointErrors, 0, len(answers))
	for _, a := range answers {
		if a.unauthenticated() {
			condition = ErrUnauthenticated
		}
		bad = append(bad, &EndpointError{Endpoint: a.ep, Err: a.reason()})
	}
	if ctx.Err() != nil {
		return nil, refuse(op, fmt.Errorf("%w: %w: %w", condition, retry.ContextError(ctx), bad))
	}
	return nil, refuse(op, fmt.Errorf("%w: %w", condition, bad))
}
