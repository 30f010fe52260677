package etcdkit

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
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

// answer is the response of one endpoint.
type answer struct {
	ep      string
	status  *pb.StatusResponse
	list    []*pb.Member
	latency time.Duration
	tls     *credentials.TLSInfo
	err     error
}

// survey queries all endpoints concurrently.
func (c *core) survey(ctx context.Context) []answer {
	ctx, stop := context.WithTimeout(ctx, statusWithin)
	defer stop()
	eps := c.endpoints()
	if c.patrol == nil {
		c.lines.keep(eps) // the owner of the client may have changed them; otherwise the patrol does this
	}
	out := make([]answer, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() { out[i] = c.question(ctx, ep) })
	}
	wg.Wait()
	for _, a := range out {
		if a.status != nil {
			c.versions.log(c.versions.record(a.ep, a.status))
		}
	}
	return out
}

// question fetches the status and the list of members from one endpoint.
func (c *core) question(ctx context.Context, ep string) answer {
	a := answer{ep: ep}
	a.err = c.lines.ask(ctx, ep, func(conn *grpc.ClientConn) error { return hear(ctx, conn, &a) })
	return a
}

// hear fills in a with the responses received over conn.
func hear(ctx context.Context, conn *grpc.ClientConn, a *answer) error {
	began := time.Now()
	var p peer.Peer
	answered, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}, grpc.Peer(&p))
	a.latency = time.Since(began)
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		a.tls = &info
	}
	if err != nil {
		return err
	}
	a.status = answered
	if list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{}); err == nil {
		a.list = list.GetMembers() // optional: without a list the status identifies the member
	}
	return nil
}

// reason returns why the endpoint did not answer, for people.
func (a answer) reason() error {
	if status.Code(a.err) == codes.DeadlineExceeded {
		return errors.New("no answer within " + statusWithin.String())
	}
	return wire.Plain(a.err)
}

// unauthenticated reports whether etcd did not accept the user.
func (a answer) unauthenticated() bool {
	if a.err == nil {
		return false
	}
	_, condition := retry.Classify(a.err, false)
	return errors.Is(condition, ErrUnauthenticated)
}

// members merges the answers of all endpoints, and fills in h with what they report about the
// cluster.
func (c *core) members(answers []answer, h *Health) []Member {
	out := known(answers)
	var committed uint64
	for _, a := range answers {
		s := a.status
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
	for _, a := range answers {
		out = a.fill(out, committed)
	}
	for i := range out {
		if m := &out[i]; m.Endpoint == "" && !m.Reachable {
			m.Err = "no endpoint of the client leads to it"
		}
	}
	c.markEvicted(out)
	return out
}

// known returns the list of members of the most advanced member that answered.
func known(answers []answer) []Member {
	var best answer
	for _, a := range answers {
		if a.list != nil && (best.list == nil || a.status.GetRaftAppliedIndex() > best.status.GetRaftAppliedIndex()) {
			best = a
		}
	}
	out := make([]Member, 0, len(answers))
	for _, m := range best.list {
		out = append(out, Member{
			ID: m.GetID(), Name: m.GetName(), PeerURLs: m.GetPeerURLs(), ClientURLs: m.GetClientURLs(), Learner: m.GetIsLearner(),
		})
	}
	return out
}

// fill adds an answer to its member in out. It appends a new Member if the list does not contain
// it.
func (a answer) fill(out []Member, committed uint64) []Member {
	i := slices.IndexFunc(out, func(m Member) bool {
		if a.status != nil {
			return m.ID == a.status.GetHeader().GetMemberId()
		}
		return slices.ContainsFunc(m.ClientURLs, func(u string) bool { return sameAddress(u, a.ep) })
	})
	if i < 0 {
		i, out = len(out), append(out, Member{})
	}
	m := &out[i]
	if a.status == nil {
		if !m.Reachable {
			m.Endpoint, m.Err = a.ep, a.reason().Error()
		}
		return out
	}
	s := a.status
	m.ID, m.Endpoint, m.Reachable, m.Err = s.GetHeader().GetMemberId(), a.ep, true, ""
	m.Leader, m.Learner = s.GetLeader() == m.ID, s.GetIsLearner()
	m.Version, m.Latency, m.Alarms = s.GetVersion(), a.latency, s.GetErrors()
	m.RaftTerm, m.RaftIndex, m.RaftApplied = s.GetRaftTerm(), s.GetRaftIndex(), s.GetRaftAppliedIndex()
	m.RaftLag = committed - min(committed, m.RaftApplied)
	m.DBSize, m.DBSizeInUse, m.DBQuota = s.GetDbSize(), s.GetDbSizeInUse(), s.GetDbSizeQuota()
	return out
}

// sameAddress reports whether a client URL of a member and an endpoint have the same address.
func sameAddress(url, ep string) bool {
	a, err := parseEndpoint(url)
	if err != nil {
		return false
	}
	b, err := parseEndpoint(ep)
	return err == nil && a.addr == b.addr
}

func (c *core) markEvicted(all []Member) {
	if c.patrol == nil {
		return
	}
	out, _, _ := c.patrol.leftOut()
	for i := range all {
		all[i].Evicted = slices.Contains(out, all[i].Endpoint)
	}
}
