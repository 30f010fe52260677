package auth

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxStreamTokenAge is the maximum age of a token with which a long-lived stream is opened. etcd
// checks the token of a watch during its whole lifetime, so the stream starts with a new one.
// Streams that are opened within this time share it.
const maxStreamTokenAge = time.Second

// errIncomplete is the result of a login that has not returned, because an interceptor panicked.
var errIncomplete = errors.New("the login did not finish")

// Authenticator obtains and renews the token that calls carry. It is safe for concurrent use.
//
// Calls that need a login at the same time share one. It runs within the call of one of them. If
// etcd rejects the token of a unary call, a new login replaces it, and the call is repeated once.
// That is safe, because etcd checks the token before it executes the call. A stream whose token is
// rejected fails, and the next one gets a new token.
type Authenticator struct {
	source  CredentialsFunc // nil: the token is fixed
	timeout time.Duration   // of one login
	base    context.Context //nolint:containedctx // the client's lifetime: a login must not use values of one caller's context
	sem     chan struct{}   // holds a value while source runs
	logger  *slog.Logger

	rejected rejectedCredentials // guarded by the login in progress

	mu           sync.Mutex
	token        authToken
	rejectedUpTo uint64 // number of the newest rejected token; older ones are not used either
	current      *login // in progress, or nil

	logins, failures atomic.Uint64
}

// authToken is a token with its number, counted from 1. The text is empty if authentication is
// disabled.
type authToken struct {
	text       string
	number     uint64
	obtainedAt time.Time
}

// login is a login in progress. The other fields are set before done is closed.
type login struct {
	done      chan struct{}
	token     authToken
	err       error
	abandoned bool // it ended with the call that ran it, so the other callers try again
}

// New returns an Authenticator that logs in with the user and password of source. Each login takes
// at most timeout. Logins in progress end with base.
func New(base context.Context, source CredentialsFunc, timeout time.Duration, l *slog.Logger) *Authenticator {
	return &Authenticator{source: source, timeout: timeout, base: base, sem: make(chan struct{}, 1), logger: l}
}

// NewFixedToken returns an Authenticator that always uses the same token.
func NewFixedToken(token string) *Authenticator {
	return &Authenticator{token: authToken{text: token, number: 1}}
}

// IsRenewable reports whether a rejected token is replaced by a new login.
func (a *Authenticator) IsRenewable() bool { return a.source != nil }

// Counts returns the numbers of attempted and of failed logins.
func (a *Authenticator) Counts() (logins, failures uint64) {
	return a.logins.Load(), a.failures.Load()
}

// DialOptions returns the options of a connection whose calls carry a token.
func (a *Authenticator) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(a.InterceptUnary), grpc.WithChainStreamInterceptor(a.InterceptStream)}
}

// requiresToken reports whether etcd requires a token for method.
func requiresToken(method string) bool {
	return method != pb.Auth_Authenticate_FullMethodName && method != healthpb.Health_Check_FullMethodName
}

// InterceptUnary makes a call with a token. It is a [grpc.UnaryClientInterceptor].
func (a *Authenticator) InterceptUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !requiresToken(method) {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	token, err := a.tokenAfter(ctx, cc, 0, opts)
	if err != nil {
		return err
	}
	err = invoke(token.addTo(ctx), method, req, reply, cc, opts...)
	if a.source == nil || !isTokenRejected(err) {
		return err
	}
	token, renewErr := a.tokenAfter(ctx, cc, token.number, opts)
	switch status.Code(renewErr) {
	case codes.OK:
		return invoke(token.addTo(ctx), method, req, reply, cc, opts...)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return err // the original error is definite: this call was rejected
	default:
		return renewErr
	}
}

// InterceptStream opens a stream with a token. It is a [grpc.StreamClientInterceptor].
func (a *Authenticator) InterceptStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !requiresToken(method) {
		return open(ctx, desc, cc, method, opts...)
	}
	var after uint64
	if desc.ClientStreams {
		after = a.agedToken()
	}
	token, err := a.tokenAfter(ctx, cc, after, opts)
	if err != nil {
		return nil, err
	}
	s, err := open(token.addTo(ctx), desc, cc, method, opts...)
	if err != nil || a.source == nil {
		return s, err
	}
	return &authStream{ClientStream: s, auth: a, tokenNumber: token.number}, nil
}

// authStream records that etcd has rejected the token of a stream, so that the next stream gets a
// new one.
type authStream struct {
	grpc.ClientStream

	auth        *Authenticator
	tokenNumber uint64
}

// RecvMsg receives a message and checks it. etcd reports a rejected watch in a message, not by
// ending the stream.
func (s *authStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	w, ok := m.(*pb.WatchResponse)
	if isTokenRejected(err) || ok && err == nil && w.GetCanceled() && isTokenRejection(w.GetCancelReason()) {
		s.auth.markRejected(s.tokenNumber)
	}
	return err
}

// agedToken returns the number of the current token if it must be replaced before a long-lived
// stream is opened, else 0.
func (a *Authenticator) agedToken() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.source == nil || time.Since(a.token.obtainedAt) < maxStreamTokenAge {
		return 0
	}
	return a.token.number
}

// markRejected records that etcd has rejected a token.
func (a *Authenticator) markRejected(number uint64) {
	a.mu.Lock()
	a.rejectedUpTo = max(a.rejectedUpTo, number)
	a.mu.Unlock()
}

// tokenAfter returns a token that was not rejected and whose number is above after. It logs in if
// there is none. A fixed token is returned in any case.
func (a *Authenticator) tokenAfter(ctx context.Context, cc *grpc.ClientConn, after uint64, opts []grpc.CallOption) (authToken, error) {
	for {
		a.mu.Lock()
		if a.source == nil || a.token.number > max(after, a.rejectedUpTo) {
			token := a.token
			a.mu.Unlock()
			return token, nil
		}
		l := a.current
		if l == nil {
			l = &login{done: make(chan struct{})}
			a.current = l
			a.mu.Unlock()
			a.runLogin(ctx, cc, l, opts)
			return l.token, l.err
		}
		a.mu.Unlock()
		select {
		case <-l.done:
			if !l.abandoned {
				return l.token, l.err
			}
		case <-ctx.Done():
			return authToken{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// runLogin makes one login within the call of ctx and wakes the waiting callers.
func (a *Authenticator) runLogin(ctx context.Context, cc *grpc.ClientConn, l *login, opts []grpc.CallOption) {
	bounded, cancel := context.WithTimeout(a.base, a.timeout)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	text, attempted, err := "", true, errIncomplete
	// Deferred, so that callers wake even if an interceptor panics.
	defer func() { a.finish(ctx, l, text, attempted, err) }()
	text, attempted, err = a.authenticate(bounded, cc, opts)
}

// finish ends a login. attempted is that of authenticate.
func (a *Authenticator) finish(ctx context.Context, l *login, text string, attempted bool, err error) {
	if attempted {
		a.logins.Add(1)
		if err != nil {
			a.failures.Add(1)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		a.token = authToken{text: text, number: max(a.token.number, a.rejectedUpTo) + 1, obtainedAt: time.Now()}
	case ctx.Err() != nil:
		l.abandoned, err = true, status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, errIncomplete):
		l.abandoned = true
	}
	l.token, l.err, a.current = a.token, err, nil
	close(l.done)
}

// authenticate obtains a token. Its request has the WaitForReady option of opts, which are those of
// the call that needs the token. If etcd has recently rejected the same credentials, authenticate
// sends nothing and returns the error of that login; attempted is then false.
func (a *Authenticator) authenticate(ctx context.Context, cc *grpc.ClientConn, opts []grpc.CallOption) (text string, attempted bool, err error) {
	user, password, err := a.fetchCredentials(ctx)
	if err == nil && (user == "" || password == "") {
		err = errors.New("user or password is empty")
	}
	if err != nil {
		return "", true, &credentialsError{err: err}
	}
	credentials := unique.Make(user + "\x00" + password)
	if err := a.rejected.current(credentials, time.Now()); err != nil {
		return "", false, err
	}
	var waitForReady []grpc.CallOption
	for _, o := range opts {
		if w, ok := o.(grpc.FailFastCallOption); ok {
			waitForReady = append(waitForReady, w)
		}
	}
	resp, err := pb.NewAuthClient(cc).Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: password}, waitForReady...)
	if errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
		err = nil
	}
	begins, ends := a.rejected.update(credentials, err, time.Now())
	switch {
	case begins:
		a.logger.WarnContext(ctx, "etcd rejects the login", "user", user, "error", err)
	case ends:
		a.logger.WarnContext(ctx, "etcd accepts the login again", "user", user)
	}
	return resp.GetToken(), true, err
}

// addTo returns ctx with the token added to its outgoing metadata.
func (t authToken) addTo(ctx context.Context) context.Context {
	if t.text == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, t.text)
}

// isTokenRejected reports whether etcd rejected a call because of a token that a new login would
// replace.
func isTokenRejected(err error) bool {
	return err != nil && isTokenRejection(rpctypes.ErrorDesc(err))
}

// isTokenRejection is like isTokenRejected for the text of an error, with or without gRPC's prefix.
func isTokenRejection(text string) bool {
	for _, err := range []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCAuthOldRevision} {
		if strings.HasSuffix(text, rpctypes.ErrorDesc(err)) {
			return true
		}
	}
	return false
}
