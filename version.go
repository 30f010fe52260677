package etcdkit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Bounds of the pause between two version requests to a server that rejects them.
const (
	minVersionPause = 2 * time.Second
	maxVersionPause = 5 * time.Minute
)

// versionGrace is how long Open waits for the versions of the members after its read has succeeded.
const versionGrace = 200 * time.Millisecond

// unsupportedReason returns why a version is not supported, or "" if it is.
func unsupportedReason(version string) string {
	major, minor, patch, ok := parseVersion(version)
	var required, progressFixed int
	switch {
	case !ok:
		return "its version cannot be read"
	case major > 3, major == 3 && minor > 5:
		return ""
	case major == 3 && minor == 5:
		required, progressFixed = 13, 8
	case major == 3 && minor == 4:
		required, progressFixed = 31, 25
	default:
		return "3.4.31 is the oldest version that is supported"
	}
	switch {
	case patch >= required:
		return ""
	case patch < progressFixed:
		return fmt.Sprintf("its progress notifications can overtake events (etcd#15220); 3.%d.%d is required", minor, required)
	}
	return fmt.Sprintf("3.%d.%d is required", minor, required)
}

// parseVersion parses "3.5.13", with or without a suffix such as "-rc.1".
func parseVersion(version string) (major, minor, patch int, ok bool) {
	release, _, _ := strings.Cut(version, "+")
	release, _, _ = strings.Cut(release, "-")
	parts := strings.Split(release, ".")
	if len(parts) != 3 {
		return 0, 0, 0, false
	}
	var numbers [3]int
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return 0, 0, 0, false
		}
		numbers[i] = n
	}
	return numbers[0], numbers[1], numbers[2], true
}

// unsupportedError means that the server at an endpoint is not supported.
type unsupportedError struct {
	endpoint, version, cause string
	member                   uint64
}

func (e *unsupportedError) Error() string {
	return fmt.Sprintf("member %x runs etcd %s: %s", e.member, e.version, e.cause)
}

// Unwrap returns ErrUnsupportedServer.
func (e *unsupportedError) Unwrap() error { return ErrUnsupportedServer }

// versionChecker records the version of the server at each endpoint and finds those that are not
// supported.
type versionChecker struct {
	fetch  statusFetcher
	logger *slog.Logger

	mu    sync.Mutex
	known map[string]string // by endpoint
	rests map[string]rest   // by endpoint, for servers that have rejected the request
	id    uint64            // of the cluster, from the first answer; 0 before
}

// rest says when to query a server again, and how long the last pause was.
type rest struct {
	until time.Time
	pause time.Duration
}

// isDue reports whether the version of the server at ep must be fetched.
func (v *versionChecker) isDue(ep string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.known[ep]
	return !ok && !time.Now().Before(v.rests[ep].until)
}

// clusterID returns the ID of the cluster, or 0 if no server has answered yet.
func (v *versionChecker) clusterID() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.id
}

// refused schedules the next version request to ep. The pause doubles each time.
func (v *versionChecker) refused(ep string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	pause := min(max(2*v.rests[ep].pause, minVersionPause), maxVersionPause)
	if v.rests == nil {
		v.rests = map[string]rest{}
	}
	v.rests[ep] = rest{until: time.Now().Add(pause), pause: pause}
}

// forget discards the version of ep. The server did not answer, so another one may answer next
// time.
func (v *versionChecker) forget(ep string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.known, ep)
	delete(v.rests, ep)
}

// record stores the version that the server at ep has reported. It returns an error if the version
// is not supported and differs from the one stored before.
func (v *versionChecker) record(ep string, s *pb.StatusResponse) *unsupportedError {
	version := s.GetVersion()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.rests, ep)
	v.id = cmp.Or(v.id, s.GetHeader().GetClusterId())
	if before, ok := v.known[ep]; ok && before == version {
		return nil
	}
	if v.known == nil {
		v.known = map[string]string{}
	}
	v.known[ep] = version
	if cause := unsupportedReason(version); cause != "" {
		return &unsupportedError{endpoint: ep, version: version, cause: cause, member: s.GetHeader().GetMemberId()}
	}
	return nil
}

// check fetches the version of the server at ep unless it is known, and logs a warning if it is not
// supported.
func (v *versionChecker) check(ctx context.Context, ep string) {
	if !v.isDue(ep) {
		return
	}
	s, err := v.fetch(ctx, ep)
	if err != nil {
		v.refused(ep)
		return
	}
	v.log(v.record(ep, s))
}

// log logs err unless it is nil.
func (v *versionChecker) log(err *unsupportedError) {
	if err != nil {
		v.logger.Warn("etcd server is not supported", "endpoint", err.endpoint, "member", strconv.FormatUint(err.member, 16),
			"version", err.version, "reason", err.cause)
	}
}

// statusFetcher fetches the status of the server at an endpoint.
type statusFetcher func(ctx context.Context, ep string) (*pb.StatusResponse, error)

// start fetches the versions of the servers at eps, using fetch. wait returns the servers that are
// not supported. Versions that are still unknown after the grace period are left to check.
func (v *versionChecker) start(ctx context.Context, eps []string, fetch statusFetcher) (wait func(grace time.Duration) []*unsupportedError) {
	ctx, cancel := context.WithCancel(ctx)
	found := make([]*unsupportedError, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() {
			if s, err := fetch(ctx, ep); err == nil {
				found[i] = v.record(ep, s)
			}
		})
	}
	return func(grace time.Duration) []*unsupportedError {
		defer time.AfterFunc(grace, cancel).Stop()
		defer cancel()
		wg.Wait()
		var out []*unsupportedError
		for _, err := range found {
			if err != nil {
				out = append(out, err)
			}
		}
		return out
	}
}

// requireSupported returns an error that lists the servers in found, or only logs them if
// WithUnsupportedServers is set.
func (c *core) requireSupported(found []*unsupportedError) error {
	var all endpointErrors
	for _, err := range found {
		if c.set.unsupportedServers {
			c.versions.log(err)
			continue
		}
		all = append(all, &EndpointError{Endpoint: err.endpoint, Err: err})
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnsupportedServer, all)
}

// fetchStatus fetches the status of the server at ep.
func (l *lines) fetchStatus(ctx context.Context, ep string) (s *pb.StatusResponse, err error) {
	err = l.ask(ctx, ep, func(conn *grpc.ClientConn) error {
		s, err = pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		return err
	})
	return s, err
}
