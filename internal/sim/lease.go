package sim

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// lessor is what the leader knows in addition: when leases expire.
type lessor struct {
	primary bool
	expiry  map[int64]time.Time
	waiting map[int64][]func(error) // renewals of expired leases, until these are revoked
	revoked map[int64]time.Time     // when the revocation of an expired lease was proposed
}

// errNotPrimary ends renewals at a member that is not the leader anymore.
var errNotPrimary = errors.New("not primary lessor")

// expireAfter sets the expiry of a lease by the clock of the member.
func (l *lessor) expireAfter(m *Member, id int64, d time.Duration) {
	l.expiry[id] = time.Now().Add(time.Duration(float64(d) / m.sim.opts.ClockRate))
}

// promote extends all leases, because renewals that the last leader accepted are not known.
func (l *lessor) promote(m *Member, extend time.Duration) {
	*l = lessor{
		primary: true, expiry: map[int64]time.Time{}, waiting: map[int64][]func(error){}, revoked: map[int64]time.Time{},
	}
	for id, state := range m.store.leases {
		l.expireAfter(m, id, time.Duration(state.ttl)*time.Second+extend)
	}
}

// demote ends the waiting renewals.
func (l *lessor) demote() {
	waiting := l.waiting
	*l = lessor{}
	for _, id := range slices.Sorted(maps.Keys(waiting)) {
		for _, f := range waiting[id] {
			f(errNotPrimary)
		}
	}
}

// tick revokes leases that have expired.
func (l *lessor) tick(m *Member) {
	now := time.Now()
	if !l.primary || m.paused || !m.running {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(l.expiry)) {
		if now.Before(l.expiry[id]) || now.Sub(l.revoked[id]) < 3*time.Second {
			continue
		}
		l.revoked[id] = now
		m.sim.note("%s: lease %x expires", m.name, id)
		m.propose("LeaseRevoke", func(m *Member) (any, error) { return nil, m.revoke(id) }, func(any, error) {})
	}
}

// granted starts the expiry of a lease that m has applied.
func (m *Member) granted(id int64) {
	if m.lessor.primary {
		m.lessor.expireAfter(m, id, time.Duration(m.store.leases[id].ttl)*time.Second)
	}
}

// revoke removes a lease from what m has applied.
func (m *Member) revoke(id int64) error {
	err := m.store.revoke(id)
	l := &m.lessor
	if l.primary {
		waiting := l.waiting[id]
		delete(l.expiry, id)
		delete(l.waiting, id)
		delete(l.revoked, id)
		for _, f := range waiting {
			f(rpctypes.ErrGRPCLeaseNotFound)
		}
	}
	return err
}

// renew renews a lease at the leader, which makes sure that it still leads. m may be another
// member, which forwards the request.
func (m *Member) renew(id int64, done func(ttl int64, err error)) {
	deadline := time.Now().Add(requestTimeout)
	answered := false
	once := func(ttl int64, err error) {
		if !answered {
			answered = true
			done(ttl, err)
		}
	}
	m.after(requestTimeout, func() {
		if m.leader == nil {
			once(0, rpctypes.ErrGRPCNoLeader)
			return
		}
		once(0, rpctypes.ErrGRPCTimeout)
	})
	var try func()
	again := func() {
		if !answered && time.Now().Before(deadline) {
			m.after(heartbeat/2, try)
		}
	}
	try = func() {
		leader, c := m.leader, &m.sim.cluster
		if answered {
			return
		}
		if leader == nil || !m.reaches(leader) {
			again()
			return
		}
		rtt := 2 * m.sim.opts.PeerLatency
		if leader == m {
			rtt = 0
		}
		term := c.term
		m.after(2*m.sim.opts.PeerLatency+rtt, func() {
			switch {
			case c.leader != leader || c.term != term || !leader.hasQuorum() || !m.reaches(leader) || !leader.lessor.primary:
				if leader == m {
					once(0, errNotPrimary)
					return
				}
				again()
			default:
				leader.lessor.renew(leader, id, func(err error) {
					switch {
					case errors.Is(err, errNotPrimary):
						again()
					case err != nil:
						once(0, err)
					default:
						once(leader.store.leases[id].ttl, nil)
					}
				})
			}
		})
	}
	try()
}

// renew renews a lease. One that has expired waits for its revocation.
func (l *lessor) renew(m *Member, id int64, done func(error)) {
	state := m.store.leases[id]
	if state == nil {
		done(rpctypes.ErrGRPCLeaseNotFound)
		return
	}
	if !time.Now().Before(l.expiry[id]) {
		l.waiting[id] = append(l.waiting[id], done)
		return
	}
	l.expireAfter(m, id, time.Duration(state.ttl)*time.Second)
	done(nil)
}

// leaseServer is the lease service of a member.
type leaseServer struct {
	pb.UnimplementedLeaseServer

	m *Member
}

// LeaseGrant grants a lease.
func (l *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return serve(ctx, l.m, "LeaseGrant", r, func(done func(*pb.LeaseGrantResponse, error)) {
		id := r.ID
		if id == 0 {
			id = l.m.sim.rng.Int64()
		}
		apply := func(m *Member) (any, error) {
			if err := m.store.grant(id, r.TTL); err != nil {
				return nil, err
			}
			m.granted(id)
			return &pb.LeaseGrantResponse{Header: m.header(), ID: id, TTL: m.store.leases[id].ttl}, nil
		}
		l.m.propose("LeaseGrant", apply, func(out any, err error) {
			resp, _ := out.(*pb.LeaseGrantResponse)
			done(resp, err)
		})
	})
}

// LeaseRevoke revokes a lease.
func (l *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return commit(ctx, l.m, "LeaseRevoke", r, func(m *Member) (*pb.LeaseRevokeResponse, error) {
		if err := m.revoke(r.ID); err != nil {
			return nil, err
		}
		return &pb.LeaseRevokeResponse{Header: m.header()}, nil
	})
}

// LeaseTimeToLive describes a lease. The leader answers.
func (l *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return serve(ctx, l.m, "LeaseTimeToLive", r, func(done func(*pb.LeaseTimeToLiveResponse, error)) {
		m := l.m
		m.readIndex(func(err error) {
			leader := m.leader
			switch {
			case err != nil:
				done(nil, err)
				return
			case leader == nil || !leader.lessor.primary:
				done(nil, rpctypes.ErrGRPCLeaderChanged)
				return
			}
			out := &pb.LeaseTimeToLiveResponse{Header: m.header(), ID: r.ID, TTL: -1}
			if state := leader.store.leases[r.ID]; state != nil {
				left := float64(time.Until(leader.lessor.expiry[r.ID])) * m.sim.opts.ClockRate
				out.TTL, out.GrantedTTL = int64(time.Duration(left).Seconds()), state.ttl
				if r.Keys {
					for _, key := range slices.Sorted(maps.Keys(state.keys)) {
						out.Keys = append(out.Keys, []byte(key))
					}
				}
			}
			done(out, nil)
		})
	})
}

// LeaseLeases lists what this member has applied.
func (l *leaseServer) LeaseLeases(ctx context.Context, r *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	return serve(ctx, l.m, "LeaseLeases", r, func(done func(*pb.LeaseLeasesResponse, error)) {
		out := &pb.LeaseLeasesResponse{Header: l.m.header()}
		for _, id := range slices.Sorted(maps.Keys(l.m.store.leases)) {
			out.Leases = append(out.Leases, &pb.LeaseStatus{ID: id})
		}
		done(out, nil)
	})
}

// LeaseKeepAlive renews leases, one after the other.
func (l *leaseServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		resp, err := serve(stream.Context(), l.m, "LeaseKeepAlive", r, func(done func(*pb.LeaseKeepAliveResponse, error)) {
			out := &pb.LeaseKeepAliveResponse{Header: l.m.header(), ID: r.ID} // from before, as in etcd
			l.m.renew(r.ID, func(ttl int64, err error) {
				switch {
				case errors.Is(err, rpctypes.ErrGRPCLeaseNotFound):
				case err != nil:
					done(nil, err)
					return
				}
				out.TTL = ttl
				done(out, nil)
			})
		})
		if err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
