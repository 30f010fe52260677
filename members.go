package etcdkit

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/endpoint"
)

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
