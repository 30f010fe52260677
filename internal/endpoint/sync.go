package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/outage"
)

// syncProbeTimeout bounds the probes of new endpoints.
const syncProbeTimeout = time.Second

// errOtherCluster means that a list of members is from another cluster than the one the client was
// opened with.
var errOtherCluster = errors.New("the list of members is that of another cluster")

// errNoMemberURL means that no member has a client URL that suits the client's TLS settings.
var errNoMemberURL = errors.New("no member has a client URL that the client can use")

// Sync periodically replaces the endpoints of a client by the client URLs of the members.
type Sync struct {
	Interval time.Duration // between two lists of members, plus up to a tenth of it
	Timeout  time.Duration // of one list and the probes that follow it
	HasTLS   bool          // TLS is configured
	Pool     *Pool
	Logger   *slog.Logger

	// Members fetches the list of members.
	Members func(ctx context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error)
	// ClusterID returns the ID of the cluster that the client was opened with, or 0 if it is
	// unknown.
	ClusterID func() uint64
	// Endpoints returns the current endpoints, and SetEndpoints replaces them.
	Endpoints    func() []string
	SetEndpoints func(eps ...string) error

	log outage.Log
}

// Run synchronizes the endpoints until ctx ends.
func (s *Sync) Run(ctx context.Context) {
	for {
		jitter := time.Duration(rand.Int64N(int64(s.Interval)/10 + 1))
		timer := time.NewTimer(s.Interval + jitter)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := s.sync(ctx)
		if ctx.Err() != nil {
			return
		}
		begins, ends, lasted := s.log.Update(err != nil, time.Now())
		switch {
		case begins:
			s.Logger.WarnContext(ctx, "etcd endpoints cannot be synchronized", "error", err)
		case ends:
			s.Logger.WarnContext(ctx, "etcd endpoints are synchronized again", "after", lasted)
		}
	}
}

// sync fetches the list of members and sets their client URLs as endpoints if at least one of them
// answers. It returns errOtherCluster if the list is from another cluster.
func (s *Sync) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	resp, err := s.Members(ctx)
	if err != nil {
		return err
	}
	if id, want := resp.Header.GetClusterId(), s.ClusterID(); want != 0 && id != want {
		return fmt.Errorf("%w: %x instead of %x", errOtherCluster, id, want)
	}
	before := s.Endpoints()
	urls := clientURLs(resp.Members, before, s.HasTLS)
	if len(urls) == 0 {
		return errNoMemberURL
	}
	if equalSets(before, urls) {
		return nil
	}
	if err := s.probeAny(ctx, urls); err != nil {
		s.Pool.Retain(before)
		return fmt.Errorf("none of the members' client URLs answers: %w", err)
	}
	if err := s.SetEndpoints(urls...); err != nil {
		return err
	}
	s.Logger.InfoContext(ctx, "etcd endpoints replaced", "endpoints", urls)
	return nil
}

// clientURLs returns the client URLs of the voting members that suit a client with or without TLS.
// The URL of an endpoint in use keeps its current spelling.
func clientURLs(members []*pb.Member, before []string, hasTLS bool) []string {
	var urls []string
	for _, m := range members {
		if m.GetIsLearner() {
			continue // a learner serves no linearizable reads and no writes
		}
		for _, url := range m.GetClientURLs() {
			e, err := parse(url)
			if err != nil || hasTLS && e.excludesTLS() || !hasTLS && e.RequiresTLS() {
				continue
			}
			url = e.String()
			if i := slices.IndexFunc(before, func(ep string) bool { return SameAddress(url, ep) }); i >= 0 {
				url = before[i]
			}
			if !slices.Contains(urls, url) {
				urls = append(urls, url)
			}
		}
	}
	return urls
}

// equalSets reports whether two lists contain the same endpoints in any order.
func equalSets(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// probeAny returns nil if one of eps answers, and otherwise the error of each.
func (s *Sync) probeAny(ctx context.Context, eps []string) error {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), syncProbeTimeout)
	defer cancel()
	errs := make(Errors, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() { errs[i] = &Error{Endpoint: ep, Err: s.Pool.Probe(ctx, ep)} })
	}
	wg.Wait()
	if slices.ContainsFunc(errs, func(e *Error) bool { return e.Err == nil }) {
		return nil
	}
	return errs
}
