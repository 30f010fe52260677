package etcdkit

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// freshFor is the maximum age of a token with which a long-lived stream is opened.
const freshFor = time.Second

// login obtains and renews the token that calls carry. It uses interceptors of the connection, and
// not the credentials of client/v3, which log in when the client is created, never change the
// password, and log in for each stream.
//
// Calls that need a login at the same time share one. It runs within the call of one of them. If
// etcd rejects a token, a new login replaces it and the call is repeated once. That is safe,
// because etcd checks the token before it executes the call.
type login struct {
	source credentialsFunc // nil: the token is fixed
	bound  time.Duration   // bounds one login
	base   context.Context //nolint:containedctx // the client's lifetime: a login must not use values of one caller's context
	asking chan struct{}   // holds a value while source runs
	logger *slog.Logger

	refused refusedLogin // guarded by the current attempt

	mu     sync.Mutex
	have   ticket
	stale  uint64 // tickets up to this number were rejected
	trying *attempt

	count  atomic.Uint64
	failed atomic.Uint64
}

// ticket is a token with its number, counted from 1. The token is empty if authentication is
// disabled.
type ticket struct {
	token string
	no    uint64
	at    time.Time
}

// attempt is a login in progress.
type attempt struct {
	done      chan struct{}
	got       ticket
	err       error
	abandoned bool // ended with the call that ran it, so other callers try again
}

// sourcedLogin returns a login that uses the user and password of source. Logins in progress end
// with base.
func sourcedLogin(base context.Context, source credentialsFunc, bound time.Duration, l *slog.Logger) *login {
	return &login{source: source, bound: bound, base: base, asking: make(chan struct{}, 1), logger: l}
}

// fixedToken always returns the same token.
func fixedToken(token string) *login { return &login{have: ticket{token: token, no: 1}} }

// dialOptions adds a token to every call of a connection.
func (l *login) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.unary), grpc.WithChainStreamInterceptor(l.stream)}
}

// needsToken reports whether etcd requires a token for method.
func needsToken(method string) bool {
	return method != pb.Auth_Authenticate_FullMethodName && method != healthpb.Health_Check_FullMethodName
}

func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !needsToken(method) {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	t, err := l.ticket(ctx, cc, 0, opts)
	if err != nil {
		return err
	}
	err = invoke(t.outgoing(ctx), method, req, reply, cc, opts...)
	if l.source == nil || !refusedToken(err) {
		return err
	}
	t, renewErr := l.ticket(ctx, cc, t.no, opts)
	switch status.Code(renewErr) {
	case codes.OK:
		return invoke(t.outgoing(ctx), method, req, reply, cc, opts...)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return err // the original error is definite: this call was rejected
	default:
		return renewErr
	}
}

func (l *login) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !needsToken(method) {
		return open(ctx, desc, cc, method, opts...)
	}
	var after uint64
	if desc.ClientStreams {
		after = l.aged() // etcd checks the token of a watch stream during its whole lifetime
	}
	t, err := l.ticket(ctx, cc, after, opts)
	if err != nil {
		return nil, err
	}
	s, err := open(t.outgoing(ctx), desc, cc, method, opts...)
	if err != nil || l.source == nil {
		return s, err
	}
	return &guardedStream{ClientStream: s, login: l, ticket: t.no}, nil
}

// aged returns the number of the current ticket if it must be replaced before a long-lived stream
// is opened, else 0.
func (l *login) aged() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.source == nil || time.Since(l.have.at) < freshFor {
		return 0
	}
	return l.have.no
}

// refuse records that etcd no longer accepts a ticket.
func (l *login) refuse(no uint64) {
	l.mu.Lock()
	l.stale = max(l.stale, no)
	l.mu.Unlock()
}

// ticket returns a ticket later than after. It logs in if there is none.
func (l *login) ticket(ctx context.Context, cc *grpc.ClientConn, after uint64, opts []grpc.CallOption) (ticket, error) {
	for {
		l.mu.Lock()
		if l.source == nil || l.have.no > max(after, l.stale) {
			have := l.have
			l.mu.Unlock()
			return have, nil
		}
		a := l.trying
		if a == nil {
			a = &attempt{done: make(chan struct{})}
			l.trying = a
			l.mu.Unlock()
			l.try(ctx, cc, a, opts)
			return a.got, a.err
		}
		l.mu.Unlock()
		select {
		case <-a.done:
			if !a.abandoned {
				return a.got, a.err
			}
		case <-ctx.Done():
			return ticket{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// try makes one login within the call of ctx and wakes the waiting callers.
func (l *login) try(ctx context.Context, cc *grpc.ClientConn, a *attempt, opts []grpc.CallOption) {
	bounded, stop := context.WithTimeout(l.base, l.bound)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	token, tried, err := "", true, errBrokenOff
	defer func() { l.settle(ctx, a, token, tried, err) }() // deferred, so that callers wake even if an interceptor panics
	token, tried, err = l.authenticate(bounded, cc, opts)
}

// settle ends an attempt. tried is false if the login was postponed.
func (l *login) settle(ctx context.Context, a *attempt, token string, tried bool, err error) {
	if tried {
		l.count.Add(1)
		if err != nil {
			l.failed.Add(1)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.have = ticket{token: token, no: max(l.have.no, l.stale) + 1, at: time.Now()}
	case ctx.Err() != nil:
		a.abandoned, err = true, status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, errBrokenOff):
		a.abandoned = true
	}
	a.got, a.err, l.trying = l.have, err, nil
	close(a.done)
}

// authenticate obtains a token. It waits for a connection if the call it is made for does. If etcd
// has recently rejected the same credentials, it returns that error, and tried is false.
func (l *login) authenticate(ctx context.Context, cc *grpc.ClientConn, opts []grpc.CallOption) (token string, tried bool, err error) {
	user, password, err := l.ask(ctx)
	if err == nil && (user == "" || password == "") {
		err = errors.New("user or password is empty")
	}
	if err != nil {
		return "", true, &credentialsError{err: err}
	}
	credentials := NewSecret(user + "\x00" + password)
	if err := l.refused.current(credentials, time.Now()); err != nil {
		return "", false, err
	}
	var patience []grpc.CallOption
	for _, o := range opts {
		if w, ok := o.(grpc.FailFastCallOption); ok {
			patience = append(patience, w)
		}
	}
	resp, err := pb.NewAuthClient(cc).Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: password}, patience...)
	if errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
		err = nil
	}
	begins, ends := l.refused.update(credentials, err, time.Now())
	switch {
	case begins:
		l.logger.WarnContext(ctx, "etcd refuses the login", "user", user, "error", err)
	case ends:
		l.logger.WarnContext(ctx, "etcd accepts the login again", "user", user)
	}
	return resp.GetToken(), true, err
}

// outgoing returns ctx with the token added to its metadata.
func (t ticket) outgoing(ctx context.Context) context.Context {
	if t.token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, t.token)
}

// refusedToken reports whether etcd rejected a call because of a token that a new login would
// replace.
func refusedToken(err error) bool {
	if err == nil {
		return false
	}
	return refusedReason(rpctypes.ErrorDesc(err))
}

// refusedReason is like refusedToken for the text of an error, with or without gRPC's prefix.
func refusedReason(text string) bool {
	for _, err := range []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCAuthOldRevision} {
		if strings.HasSuffix(text, rpctypes.ErrorDesc(err)) {
			return true
		}
	}
	return false
}

// guardedStream records that etcd has rejected the token of a stream, so that the next stream gets
// a new one.
type guardedStream struct {
	grpc.ClientStream

	login  *login
	ticket uint64
}

// RecvMsg receives a message and checks it. etcd reports a rejected watch in a message, not by
// ending the stream.
func (s *guardedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	w, ok := m.(*pb.WatchResponse)
	if refusedToken(err) || ok && err == nil && w.GetCanceled() && refusedReason(w.GetCancelReason()) {
		s.login.refuse(s.ticket)
	}
	return err
}
