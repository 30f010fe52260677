package etcdkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// healthTimeout bounds the read of Health. A member that waits for a quorum would return an error
// only after 7 s. It is longer than the timeout of the status calls, so that a frozen member can be
// told apart from a cluster that does not answer.
const healthTimeout = 3 * time.Second

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

// Member describes a member of the cluster, from the list of members and from the member's own
// status.
type Member struct {
	// ID is 0 for an endpoint that did not answer and that is in no member's client URLs.
	ID         uint64   `json:"id,omitzero"`
	Name       string   `json:"name,omitzero"`
	PeerURLs   []string `json:"peerURLs,omitzero"`
	ClientURLs []string `json:"clientURLs,omitzero"`
	Learner    bool     `json:"learner,omitzero"`

	// Endpoint is the client's endpoint that reaches the member, or "" if there is none.
	Endpoint string `json:"endpoint,omitzero"`
	// Evicted reports whether the client does not use the endpoint at present, because it did not
	// answer.
	Evicted bool `json:"evicted,omitzero"`
	// Reachable reports whether the member answered. The fields below are set only then. Err is why
	// it did not answer.
	Reachable bool   `json:"reachable"`
	Err       string `json:"error,omitzero"`

	Leader  bool          `json:"leader,omitzero"`
	Version string        `json:"version,omitzero"`
	Latency time.Duration `json:"latency,omitzero"`
	// RaftLag is the number of committed log entries that the member has not applied yet. The
	// commit index is the highest that any member reports.
	RaftTerm    uint64 `json:"raftTerm,omitzero"`
	RaftIndex   uint64 `json:"raftIndex,omitzero"`
	RaftApplied uint64 `json:"raftApplied,omitzero"`
	RaftLag     uint64 `json:"raftLag,omitzero"`
	// DBSize is the size of the database file in bytes, DBSizeInUse its size after a
	// defragmentation, and DBQuota its maximum size. A size that the server does not report is 0.
	DBSize      int64 `json:"dbSize,omitzero"`
	DBSizeInUse int64 `json:"dbSizeInUse,omitzero"`
	DBQuota     int64 `json:"dbQuota,omitzero"`
	// Alarms are the problems that the member reports: alarms, or that it has no leader.
	Alarms []string `json:"alarms,omitzero"`
}

// Health makes a linearizable read and fetches the status of each member, concurrently. It writes
// nothing. The error is that of the read. If the status of the members shows that there is no
// quorum, the error says so. The returned Health is filled in as far as possible even if there is
// an error. A permission error counts as success, because it proves that the cluster answered.
//
// Health takes at most 3 s, or less if ctx ends first. It costs one linearizable read and two RPCs
// to each endpoint.
func (c *Client) Health(ctx context.Context) (Health, error) {
	const op = "health"
	h, err := c.health(ctx, func([]endpoint.StatusResult) {})
	if err != nil {
		return h, opError(op, err)
	}
	return h, nil
}

// health implements Health. It calls onStatus with the results of the status calls, possibly while
// the read is still running.
func (c *Client) health(ctx context.Context, onStatus func([]endpoint.StatusResult)) (h Health, err error) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	var results []endpoint.StatusResult
	var wg sync.WaitGroup
	wg.Go(func() {
		results = c.conn.queryAll(ctx)
		onStatus(results)
	})
	start := time.Now()
	err = c.read(ctx)
	h.Quorum, h.Latency = err == nil, time.Since(start)
	wg.Wait()
	h.Members = c.conn.mergeMembers(results, &h)
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, context.Canceled) {
		err = h.explain(err)
	}
	return h, err
}

// read makes the linearizable read.
func (c *Client) read(ctx context.Context) error {
	if c.conn.isClosed() {
		return errs.ClosedError("client")
	}
	_, err := c.store.Exists(ctx, probeKey)
	if errors.Is(err, ErrPermission) {
		return nil
	}
	if err != nil {
		return errs.Cause(err)
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
	if c.conn.isClosed() {
		return nil, opError(op, errs.ClosedError("client"))
	}
	var h Health
	results := c.conn.queryAll(ctx)
	all := c.conn.mergeMembers(results, &h)
	if h.ClusterID != 0 {
		return all, nil
	}
	condition, failed := ErrUnavailable, make(endpoint.Errors, 0, len(results))
	for _, r := range results {
		if r.IsUnauthenticated() {
			condition = ErrUnauthenticated
		}
		failed = append(failed, &endpoint.Error{Endpoint: r.Endpoint, Err: r.Cause()})
	}
	err := fmt.Errorf("%w: %w", condition, endpointsError{failed})
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w: %w", condition, retry.ContextError(ctx), endpointsError{failed})
	}
	return nil, opError(op, err)
}

// ReadyHandler returns a handler for readiness probes. It responds with 200 if a linearizable read
// succeeds within 2 s, and with 503 otherwise and after Close. The body, such as
// {"ready":false,"reason":"etcd unavailable"}, contains no addresses and no users.
//
// Only one check runs at a time, and its result is reused for 500 ms, whatever the number of
// probes.
func (c *Client) ReadyHandler() http.Handler {
	return healthcheck.NewReadyHandler(c.read, c.conn.isClosed)
}

// queryAll queries all endpoints concurrently and records the versions of their servers.
func (c *connection) queryAll(ctx context.Context) []endpoint.StatusResult {
	eps := c.endpoints()
	if c.checker == nil {
		// The owner of the client may have changed them; otherwise the checker does this.
		c.pool.Retain(eps)
	}
	results := c.pool.QueryAll(ctx, eps)
	for _, r := range results {
		if r.Status != nil {
			c.versions.Record(r.Endpoint, r.Status)
		}
	}
	return results
}

// mergeMembers merges the results of all endpoints into a list of members, and fills in h with what
// they report about the cluster.
func (c *connection) mergeMembers(results []endpoint.StatusResult, h *Health) []Member {
	out := listMembers(results)
	var committed uint64
	for _, r := range results {
		s := r.Status
		if s == nil {
			continue
		}
		h.ClusterID = s.GetHeader().GetClusterId()
		h.Leader = cmp.Or(h.Leader, s.GetLeader())
		h.Revision = max(h.Revision, s.GetHeader().GetRevision())
		committed = max(committed, s.GetRaftIndex())
		for _, alarm := range s.GetErrors() {
			if !slices.Contains(h.Alarms, alarm) {
				h.Alarms = append(h.Alarms, alarm)
			}
		}
	}
	for _, r := range results {
		out = addStatus(out, r, committed)
	}
	for i := range out {
		if m := &out[i]; m.Endpoint == "" && !m.Reachable {
			m.Err = "no endpoint of the client reaches it"
		}
	}
	c.markEvicted(out)
	return out
}

// listMembers returns the list of members of the most advanced member that answered.
func listMembers(results []endpoint.StatusResult) []Member {
	var best endpoint.StatusResult
	for _, r := range results {
		if r.Members != nil && (best.Members == nil || r.Status.GetRaftAppliedIndex() > best.Status.GetRaftAppliedIndex()) {
			best = r
		}
	}
	out := make([]Member, 0, len(results))
	for _, m := range best.Members {
		out = append(out, Member{
			ID: m.GetID(), Name: m.GetName(), PeerURLs: m.GetPeerURLs(), ClientURLs: m.GetClientURLs(), Learner: m.GetIsLearner(),
		})
	}
	return out
}

// addStatus adds the status of an endpoint to its member in list. It appends a new Member if the
// list does not contain it.
func addStatus(list []Member, r endpoint.StatusResult, committed uint64) []Member {
	i := slices.IndexFunc(list, func(m Member) bool {
		if r.Status != nil {
			return m.ID == r.Status.GetHeader().GetMemberId()
		}
		return slices.ContainsFunc(m.ClientURLs, func(u string) bool { return endpoint.SameAddress(u, r.Endpoint) })
	})
	if i < 0 {
		i, list = len(list), append(list, Member{})
	}
	m := &list[i]
	if r.Status == nil {
		if !m.Reachable {
			m.Endpoint, m.Err = r.Endpoint, r.Cause().Error()
		}
		return list
	}
	s := r.Status
	m.ID, m.Endpoint, m.Reachable, m.Err = s.GetHeader().GetMemberId(), r.Endpoint, true, ""
	m.Leader, m.Learner = s.GetLeader() == m.ID, s.GetIsLearner()
	m.Version, m.Latency, m.Alarms = s.GetVersion(), r.Latency, s.GetErrors()
	m.RaftTerm, m.RaftIndex, m.RaftApplied = s.GetRaftTerm(), s.GetRaftIndex(), s.GetRaftAppliedIndex()
	m.RaftLag = committed - min(committed, m.RaftApplied)
	m.DBSize, m.DBSizeInUse, m.DBQuota = s.GetDbSize(), s.GetDbSizeInUse(), s.GetDbSizeQuota()
	return list
}

func (c *connection) markEvicted(all []Member) {
	if c.checker == nil {
		return
	}
	evicted, _, _ := c.checker.Evicted()
	for i := range all {
		all[i].Evicted = slices.Contains(evicted, all[i].Endpoint)
	}
}

// displayName returns the name of a member, or else its ID or endpoint.
func (m Member) displayName() string {
	switch {
	case m.Name != "":
		return m.Name
	case m.ID != 0:
		return strconv.FormatUint(m.ID, 16)
	}
	return m.Endpoint
}
