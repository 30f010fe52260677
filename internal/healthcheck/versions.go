package healthcheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Bounds of the pause between two version requests to a server that rejects them.
const (
	minVersionBackoff = 2 * time.Second
	maxVersionBackoff = 5 * time.Minute
)

// ErrUnsupportedServer means that a member runs a version of etcd that is not supported.
var ErrUnsupportedServer = errors.New("unsupported server")

// UnsupportedReason returns why a version is not supported, or "" if it is.
func UnsupportedReason(version string) string {
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

// UnsupportedError means that the server at an endpoint is not supported.
type UnsupportedError struct {
	Endpoint string

	version, cause string
	member         uint64
}

// Error returns the member, its version and the cause.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("member %x runs etcd %s: %s", e.member, e.version, e.cause)
}

// Unwrap returns ErrUnsupportedServer.
func (e *UnsupportedError) Unwrap() error { return ErrUnsupportedServer }

// StatusFunc fetches the status of the server at an endpoint.
type StatusFunc func(ctx context.Context, ep string) (*pb.StatusResponse, error)

// Versions records the version of the server at each endpoint and finds those that are not
// supported. It is safe for concurrent use.
type Versions struct {
	fetch  StatusFunc
	logger *slog.Logger

	mu        sync.Mutex
	versions  map[string]string  // by endpoint
	backoffs  map[string]backoff // by endpoint, for servers that have rejected the request
	clusterID uint64             // from the first response; 0 before
}

// backoff is when to query a server again, and how long the last pause was.
type backoff struct {
	retryAt time.Time
	pause   time.Duration
}

// NewVersions returns a Versions that uses fetch for endpoints whose version is unknown.
func NewVersions(fetch StatusFunc, l *slog.Logger) *Versions {
	return &Versions{fetch: fetch, logger: l, versions: map[string]string{}, backoffs: map[string]backoff{}}
}

// isDue reports whether the version of the server at ep must be fetched.
func (v *Versions) isDue(ep string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.versions[ep]
	return !ok && !time.Now().Before(v.backoffs[ep].retryAt)
}

// ClusterID returns the ID of the cluster, or 0 if no server has answered yet.
func (v *Versions) ClusterID() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.clusterID
}

// postpone schedules the next version request to ep. The pause doubles each time.
func (v *Versions) postpone(ep string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	pause := min(max(2*v.backoffs[ep].pause, minVersionBackoff), maxVersionBackoff)
	v.backoffs[ep] = backoff{retryAt: time.Now().Add(pause), pause: pause}
}

// forget discards the version of ep. The server did not answer, so another one may answer next
// time.
func (v *Versions) forget(ep string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.versions, ep)
	delete(v.backoffs, ep)
}

// record stores the version that the server at ep has reported. It returns an error if the version
// is not supported and differs from the one stored before.
func (v *Versions) record(ep string, s *pb.StatusResponse) *UnsupportedError {
	version := s.GetVersion()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.backoffs, ep)
	v.clusterID = cmp.Or(v.clusterID, s.GetHeader().GetClusterId())
	if before, ok := v.versions[ep]; ok && before == version {
		return nil
	}
	v.versions[ep] = version
	if cause := UnsupportedReason(version); cause != "" {
		return &UnsupportedError{Endpoint: ep, version: version, cause: cause, member: s.GetHeader().GetMemberId()}
	}
	return nil
}

// Record stores the version that the server at ep has reported, and logs a warning if it is new and
// not supported.
func (v *Versions) Record(ep string, s *pb.StatusResponse) { v.Log(v.record(ep, s)) }

// check fetches the version of the server at ep unless it is known, and records it.
func (v *Versions) check(ctx context.Context, ep string) {
	if !v.isDue(ep) {
		return
	}
	s, err := v.fetch(ctx, ep)
	if err != nil {
		v.postpone(ep)
		return
	}
	v.Record(ep, s)
}

// Log logs err unless it is nil.
func (v *Versions) Log(err *UnsupportedError) {
	if err != nil {
		v.logger.Warn("etcd server is not supported", "endpoint", err.Endpoint, "member", strconv.FormatUint(err.member, 16),
			"version", err.version, "reason", err.cause)
	}
}

// StartFetch starts to fetch the versions of the servers at eps with fetch. The caller must call
// wait, which waits for the versions for at most grace, and returns the servers that are not
// supported. A [Checker] fetches the versions that are unknown then.
func (v *Versions) StartFetch(ctx context.Context, eps []string, fetch StatusFunc) (wait func(grace time.Duration) []*UnsupportedError) {
	ctx, cancel := context.WithCancel(ctx)
	results := make([]*UnsupportedError, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() {
			if s, err := fetch(ctx, ep); err == nil {
				results[i] = v.record(ep, s)
			}
		})
	}
	return func(grace time.Duration) []*UnsupportedError {
		defer time.AfterFunc(grace, cancel).Stop()
		defer cancel()
		wg.Wait()
		var out []*UnsupportedError
		for _, err := range results {
			if err != nil {
				out = append(out, err)
			}
		}
		return out
	}
}
