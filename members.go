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

// Member is a member of the cluster: what the cluster says of it, and what it says itself.
type Member struct {
	// ID is 0 for an endpoint that did not answer and that no member is known to have.
	ID         uint64   `json:"id,omitzero"`
	Name       string   `json:"name,omitzero"`
	PeerURLs   []string `json:"peerURLs,omitzero"`
	ClientURLs []string `json:"clientURLs,omitzero"`
	Learner    bool     `json:"learner,omitzero"`

	// Endpoint is the endpoint of the client that leads to the member, "" when none does.
	Endpoint string `json:"endpoint,omitzero"`
	// Evicted says that the client leaves the endpoint out at present, because it did not answer.
	Evicted bool `json:"evicted,omitzero"`
	// Reachable says that the member answered; what follows is only known then. Err says why it did not.
	Reachable bool   `json:"reachable"`
	Err       string `json:"error,omitzero"`

	Leader  bool          `json:"leader,omitzero"`
	Version string        `json:"version,omitzero"`
	Latency time.Duration `json:"latency,omitzero"`
	// RaftLag is how many log entries the member has yet to apply, of those that any member knows to be committed.
	RaftTerm    uint64 `json:"raftTerm,omitzero"`
	RaftIndex   uint64 `json:"raftIndex,omitzero"`
	RaftApplied uint64 `json:"raftApplied,omitzero"`
	RaftLag     uint64 `json:"raftLag,omitzero"`
	// DBSize is the size of the database file in bytes, DBSizeInUse what a defragmentation would leave of it, DBQuota
	// what it may grow to, 0 when the server does not say.
	DBSize      int64 `json:"dbSize,omitzero"`
	DBSizeInUse int64 `json:"dbSizeInUse,omitzero"`
	DBQuota     int64 `json:"dbQuota,omitzero"`
	// Alarms are what the member reports as wrong: alarms, or that it has no leader.
	Alarms []string `json:"alarms,omitzero"`
}

// answer is what one endpoint said.
type answer struct {
	ep      string
	status  *pb.StatusResponse
	list    []*pb.Member
	latency time.Duration
	tls     *credentials.TLSInfo
	err     error
}

// survey asks all endpoints at once.
func (c *core) survey(ctx context.Context) []answer {
	ctx, stop := context.WithTimeout(ctx, statusWithin)
	defer stop()
	eps := c.endpoints()
	if c.patrol == nil {
		c.lines.keep(eps) // the owner may have set others since; where there is a patrol, it notices
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

// question asks one endpoint for its status and for the members that it knows.
func (c *core) question(ctx context.Context, ep string) answer {
	a := answer{ep: ep}
	a.err = c.lines.ask(ctx, ep, func(conn *grpc.ClientConn) error { return hear(ctx, conn, &a) })
	return a
}

// hear fills in a with what the endpoint of conn says.
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
		a.list = list.GetMembers() // without it the member is known by its status alone
	}
	return nil
}

// reason is why there was no answer, for people.
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

// members puts the answers of all endpoints together, and fills in what they say of the cluster.
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

// known lists the members as the most advanced of those that answered has them.
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

// fill adds an answer to the member that it is from, or a member for it.
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

// sameAddress reports whether a URL of a member and an endpoint of the client are one address.
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
