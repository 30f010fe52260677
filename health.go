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
	// healthWithin bounds the read of a health check: a member that waits for a quorum would take 7 s to say that
	// there is none.
	healthWithin = 3 * time.Second

	// statusWithin bounds the question to a single member. It is shorter, so that one frozen member is told from many.
	statusWithin = 2 * time.Second
)

// Health is the state of the cluster as seen by the client.
type Health struct {
	// Quorum says that a linearizable read was answered: a majority of the members works together. It is false as well if
	// etcd did not accept the user, which says nothing about the majority.
	Quorum bool `json:"quorum"`
	// Latency is how long that read took.
	Latency time.Duration `json:"latency"`
	// ClusterID identifies the cluster; 0 when no member answered.
	ClusterID uint64 `json:"clusterID,omitzero"`
	// Leader is the ID of the member that leads, 0 when none of those that answered knows one.
	Leader uint64 `json:"leader,omitzero"`
	// Revision is the highest revision that a member reported.
	Revision int64 `json:"revision,omitzero"`
	// Alarms are raised alarms, such as NOSPACE. Reads may work in spite of one.
	Alarms []string `json:"alarms,omitzero"`
	// Members are the members, those that did not answer included.
	Members []Member `json:"members"`
}

// Health asks for a linearizable read and for the status of each member, at once. It writes nothing. The error is that
// of the read and says so when there is no quorum; Health is filled in as far as possible either way. A user who may
// not read the key that is asked for was answered, which is enough.
//
// It takes 3 s at most, less when ctx ends before; one linearizable read and two RPCs to each endpoint.
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

// health is Health. heard sees what the endpoints answered, while the read may still be under way.
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

// explain says what the members' answers add to a read that failed. Members that no endpoint leads to were not asked, so
// they say nothing; an endpoint that does not answer leads to some member, also when it is not known to which.
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
	failed = min(failed, voters-reachable) // several endpoints may lead to one member
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

// Members asks each endpoint for its member and for the list of all members, and puts the two together. The list is that
// of the most advanced member that answers; it is not linearizable, so that it can be had without a quorum. When none
// answers, the error names each endpoint with its reason and matches [ErrUnavailable], or [ErrUnauthenticated] when
// etcd did not accept the user.
//
// It takes 2 s at most, less when ctx ends before, and two RPCs to each endpoint.
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
