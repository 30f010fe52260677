package sim

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// result is an answer.
type result[Resp any] struct {
	resp *Resp
	err  error
}

// serve passes a request to the scheduler and waits for its answer, or until the caller gives up.
// What has begun is not undone then.
func serve[Req proto.Message, Resp any](ctx context.Context, m *Member, method string, r Req, f func(done func(*Resp, error))) (*Resp, error) {
	answer := make(chan result[Resp], 1)
	s, from := m.sim, caller(ctx)
	s.arrive(from+"|"+method+"|"+text(r), func() {
		s.counts["request "+method]++
		fate := s.fate(method)
		s.note("%s %s %s%s", from, method, describe(r), fate)
		fail := func(err error) { answer <- result[Resp]{nil, err} }
		deliver := func(resp *Resp, err error) {
			if err != nil {
				s.note("%s %s: %v", from, method, err)
			}
			fate.respond(m, from, func() { answer <- result[Resp]{resp, err} }, fail)
		}
		fate.request(m, from, func() {
			m.authorize(ctx, func(err error) {
				if err != nil {
					deliver(nil, err)
					return
				}
				f(deliver)
			})
		}, fail)
	})
	select {
	case a := <-answer:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// caller returns the name of the link that a request came over.
func caller(ctx context.Context) string {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return ""
	}
	return p.Addr.String()
}

// text returns what identifies a request among others of its method.
func text(r proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// needsLeader reports whether the caller wants an error while the member knows no leader.
func needsLeader(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	return slices.Contains(md.Get(rpctypes.MetadataRequireLeaderKey), rpctypes.MetadataHasLeader)
}

// hasLeader reports whether the member knows a leader.
func (m *Member) hasLeader() bool {
	m.sim.mu.Lock()
	defer m.sim.mu.Unlock()
	return m.leader != nil
}

// unary is the interceptor of unary calls.
func (m *Member) unary(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if needsLeader(ctx) && !m.hasLeader() {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	return next(ctx, r)
}

// serverStream is a stream that can be ended with an error.
type serverStream struct {
	grpc.ServerStream

	ctx  context.Context
	stop context.CancelCauseFunc
}

// Context returns the context.
func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) end(err error) { s.stop(err) }

// stream is the interceptor of streams.
func (m *Member) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !needsLeader(ss.Context()) {
		return next(srv, ss)
	}
	if !m.hasLeader() {
		return rpctypes.ErrGRPCNoLeader
	}
	ctx, stop := context.WithCancelCause(ss.Context())
	defer stop(nil)
	s := &serverStream{ServerStream: ss, ctx: ctx, stop: stop}
	m.sim.mu.Lock()
	streams := m.needsLeader
	streams[s] = struct{}{}
	m.sim.mu.Unlock()
	defer func() {
		m.sim.mu.Lock()
		defer m.sim.mu.Unlock()
		delete(streams, s)
	}()
	ended := make(chan error, 1)
	go func() { ended <- next(srv, s) }() // ends with ctx
	select {
	case err := <-ended:
		if ctx.Err() != nil && ss.Context().Err() == nil {
			return context.Cause(ctx)
		}
		return err
	case <-ctx.Done():
		if ss.Context().Err() == nil {
			return context.Cause(ctx)
		}
		return <-ended
	}
}

// clusterServer is the cluster service of a member.
type clusterServer struct {
	pb.UnimplementedClusterServer

	m *Member
}

// MemberList lists the members.
func (c *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	return serve(ctx, c.m, "MemberList", r, func(done func(*pb.MemberListResponse, error)) {
		c.m.orderedRead(!r.Linearizable, func() {
			out := &pb.MemberListResponse{Header: c.m.header()}
			for _, m := range c.m.sim.cluster.members {
				out.Members = append(out.Members, &pb.Member{
					ID: m.id, Name: m.name, ClientURLs: []string{"http://" + m.address()}, PeerURLs: []string{"http://" + m.name + ":2380"},
				})
			}
			done(out, nil)
		}, func(err error) { done(nil, err) })
	})
}

// maintenanceServer is the maintenance service of a member.
type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer

	m *Member
}

// Status describes the member.
func (s *maintenanceServer) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	return serve(ctx, s.m, "Status", r, func(done func(*pb.StatusResponse, error)) {
		m, c := s.m, &s.m.sim.cluster
		out := &pb.StatusResponse{
			Header: m.header(), Version: m.sim.opts.Version, DbSize: 1 << 20, DbSizeInUse: 1 << 20,
			RaftTerm: m.term, RaftIndex: uint64(len(c.log)), RaftAppliedIndex: uint64(m.applied),
		}
		if m.leader == nil {
			out.Errors = append(out.Errors, "etcdserver: no leader")
		} else {
			out.Leader = m.leader.id
		}
		if m.store.noSpace {
			out.Errors = append(out.Errors, fmt.Sprintf("memberID:%d alarm:NOSPACE ", m.id))
		}
		done(out, nil)
	})
}

// token is a token of simple authentication.
type token struct {
	user    string
	expires time.Time
}

// authServer is the auth service of a member.
type authServer struct {
	pb.UnimplementedAuthServer

	m *Member
}

// Authenticate returns a token, which all members know until it expires or they restart.
func (a *authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return serve(ctx, a.m, "Authenticate", r, func(done func(*pb.AuthenticateResponse, error)) {
		s := a.m.sim
		password, ok := s.opts.Users[r.Name]
		switch {
		case len(s.opts.Users) == 0:
			done(nil, rpctypes.ErrGRPCAuthNotEnabled)
			return
		case !ok || password != r.Password:
			done(nil, rpctypes.ErrGRPCAuthFailed)
			return
		}
		random := fmt.Sprintf("%016x", s.rng.Uint64())
		a.m.propose("Authenticate", func(m *Member) (any, error) {
			name := fmt.Sprintf("%s.%d", random, m.applied) // the index of the entry
			m.tokens[name] = &token{user: r.Name, expires: time.Now().Add(s.opts.TokenTTL)}
			return &pb.AuthenticateResponse{Header: m.header(), Token: name}, nil
		}, func(out any, err error) {
			resp, _ := out.(*pb.AuthenticateResponse)
			done(resp, err)
		})
	})
}

// authorize checks the token of a call, once m has applied the login that it is of. Logins need
// none.
func (m *Member) authorize(ctx context.Context, done func(error)) {
	method, _ := grpc.Method(ctx)
	if len(m.sim.opts.Users) == 0 || method == pb.Auth_Authenticate_FullMethodName || strings.HasPrefix(method, "/etcdserverpb.Maintenance/") {
		done(nil)
		return
	}
	md, _ := metadata.FromIncomingContext(ctx)
	names := md.Get(rpctypes.TokenFieldNameGRPC)
	if len(names) == 0 || names[0] == "" {
		done(rpctypes.ErrGRPCUserEmpty)
		return
	}
	_, text, _ := strings.Cut(names[0], ".")
	index, _ := strconv.Atoi(text) // 0 for one that is not of this server
	m.awaitApplied(index, func() {
		t := m.tokens[names[0]]
		if t == nil || time.Now().After(t.expires) {
			done(rpctypes.ErrGRPCInvalidAuthToken)
			return
		}
		t.expires = time.Now().Add(m.sim.opts.TokenTTL)
		done(nil)
	})
}
