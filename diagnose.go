package etcdkit

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
	"github.com/etcdkit/etcdkit/internal/wire"
)

const (
	diagnoseTimeout = 5 * time.Second
	explainTimeout  = 2 * time.Second // for the cause of a failed status call

	maxRaftLag             = 1000                // log entries that a member may be behind
	maxReadLatency         = time.Second         // of a linearizable read
	minCertificateLifetime = 14 * 24 * time.Hour // until a server's certificate expires
	maxQuotaUsage          = 0.8                 // of the database's quota
	minFileUsage           = 0.5                 // of the database file
	minFragmentedSize      = 256 << 20           // smaller files are not worth a defragmentation
)

// Report is the result of [Client.Diagnose]. It contains no secret. String formats it for people.
type Report struct {
	// At is when Diagnose started, Took how long it ran.
	At   time.Time     `json:"at"`
	Took time.Duration `json:"took"`
	// Problems describes everything that needs attention, in plain words. It is empty if nothing
	// does.
	Problems []string `json:"problems"`

	// Endpoints has one report per endpoint.
	Endpoints []EndpointReport `json:"endpoints"`
	// Health is the state of the cluster.
	Health Health `json:"health"`

	// User is the user that the client logs in as, or "" if it uses no user, as with a certificate
	// or a token.
	User string `json:"user,omitzero"`
	// Namespace is the client's dir. Keys is the number of keys below it, or -1 if they could not
	// be counted.
	Namespace string `json:"namespace"`
	Keys      int64  `json:"keys"`

	// Settings is the effective configuration, including defaults, with the secrets replaced.
	Settings Config `json:"settings"`

	unauthenticated bool // the read was rejected, which proves nothing about the quorum
}

// EndpointReport describes the connection to one endpoint.
type EndpointReport struct {
	Endpoint string `json:"endpoint"`
	// Dial is why the connection failed, or "" if it is established.
	Dial string `json:"dial,omitzero"`
	// TLS is the version in use, or "" for plaintext. Certificate is the subject of the server's
	// certificate, Expires when it expires.
	TLS         string    `json:"tls,omitzero"`
	Certificate string    `json:"certificate,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`
	// Status is why the status call failed, such as wrong credentials, or "" if it succeeded.
	Status string `json:"status,omitzero"`
	// Latency is the duration of the status call.
	Latency time.Duration `json:"latency,omitzero"`
}

// OK reports whether no problem was found.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Diagnose checks the common causes of failures between the client and etcd: for each endpoint the
// connection, TLS, authentication, leader, raft lag, alarms, version, size and latency, then a
// linearizable read and the number of keys of the namespace. It writes nothing, never fails and
// takes at most 5 s. Use it for a debug page or a command, not for a readiness probe.
func (c *Client) Diagnose(ctx context.Context) Report {
	start := time.Now()
	r := Report{At: start, Namespace: c.conn.settings.namespace + c.dir, Keys: -1, Settings: c.conn.settings.cfg, User: c.conn.settings.cfg.Username}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	r.Settings.Endpoints = c.conn.endpoints()
	var found problems
	var keys int64
	var healthErr, countErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		r.Health, healthErr = c.health(ctx, func(all []endpoint.StatusResult) { r.Endpoints = c.conn.endpointReports(ctx, all) })
	})
	wg.Go(func() { keys, countErr = c.store.Count(ctx, "") })
	wg.Wait()
	if healthErr != nil {
		found.add("%v", healthErr)
		r.unauthenticated = errors.Is(healthErr, ErrUnauthenticated)
	}
	switch {
	case countErr == nil:
		r.Keys = keys
	case r.Health.Quorum:
		found.add("the keys of the namespace cannot be counted: %v", errs.Cause(countErr))
	}
	r.findProblems(&found)
	r.Problems, r.Took = found, time.Since(start)
	return r
}

// endpointReports returns a report for each endpoint, given the results of the status calls.
func (c *connection) endpointReports(ctx context.Context, all []endpoint.StatusResult) []EndpointReport {
	out := make([]EndpointReport, len(all))
	var wg sync.WaitGroup
	for i, r := range all {
		wg.Go(func() { out[i] = c.endpointReport(ctx, r) })
	}
	wg.Wait()
	return out
}

// endpointReport describes an endpoint, given the result of its status call.
func (c *connection) endpointReport(ctx context.Context, r endpoint.StatusResult) EndpointReport {
	out := EndpointReport{Endpoint: r.Endpoint, Latency: r.Latency}
	if r.TLS != nil {
		out.setTLS(r.TLS)
	}
	if r.Err == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	if err := c.pool.Explain(ctx, r.Endpoint); err != nil {
		out.Dial = wire.Plain(err).Error()
		return out
	}
	out.Status = r.Cause().Error()
	return out
}

func (e *EndpointReport) setTLS(info *credentials.TLSInfo) {
	e.TLS = tls.VersionName(info.State.Version)
	if certs := info.State.PeerCertificates; len(certs) > 0 {
		e.Certificate, e.Expires = certs[0].Subject.String(), certs[0].NotAfter
	}
}

// problems collects descriptions of problems.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// findProblems adds the problems of the report to found.
func (r Report) findProblems(found *problems) {
	for _, e := range r.Endpoints {
		switch {
		case e.Dial != "":
			found.add("%s cannot be reached: %s", e.Endpoint, e.Dial)
		case e.Status != "":
			found.add("%s does not report its status: %s", e.Endpoint, e.Status)
		}
		if !e.Expires.IsZero() && time.Until(e.Expires) < minCertificateLifetime {
			found.add("%s has a certificate that expires at %s", e.Endpoint, e.Expires.Format(time.RFC3339))
		}
	}
	for _, alarm := range r.Health.Alarms {
		found.add("alarm: %s", alarm)
	}
	if r.Health.Quorum && r.Health.Latency > maxReadLatency {
		found.add("a linearizable read took %v", r.Health.Latency.Round(time.Millisecond))
	}
	versions := map[string]bool{}
	for _, m := range r.Health.Members {
		m.findProblems(found)
		if m.Reachable {
			versions[m.Version] = true
		}
	}
	if len(versions) > 1 {
		found.add("members have different versions")
	}
}

// findProblems adds the problems of a member to found.
func (m Member) findProblems(found *problems) {
	name := m.displayName()
	switch {
	case !m.Reachable:
		return // reported with its endpoint; a member without an endpoint is no problem
	case m.RaftLag > maxRaftLag:
		found.add("member %s is %d log entries behind", name, m.RaftLag)
	}
	if cause := healthcheck.UnsupportedReason(m.Version); cause != "" {
		found.add("member %s runs etcd %s, which is not supported: %s", name, m.Version, cause)
	}
	if m.DBQuota > 0 && float64(m.DBSize) > maxQuotaUsage*float64(m.DBQuota) {
		found.add("member %s has used %d of %d bytes of its quota", name, m.DBSize, m.DBQuota)
	}
	if m.DBSize > minFragmentedSize && float64(m.DBSizeInUse) < minFileUsage*float64(m.DBSize) {
		found.add("member %s would shrink from %d to %d bytes by a defragmentation", name, m.DBSize, m.DBSizeInUse)
	}
}

// String formats the report for people.
func (r Report) String() string {
	var b strings.Builder
	verdict := "no problems"
	if !r.OK() {
		verdict = fmt.Sprintf("%d problem(s)", len(r.Problems))
	}
	fmt.Fprintf(&b, "etcd as seen by this client at %s (took %v): %s\n", r.At.Format(time.RFC3339), r.Took.Round(time.Millisecond), verdict)
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  ! %s\n", p)
	}
	r.printCluster(&b)
	var cells strings.Builder
	r.printEndpoints(&cells)
	r.printMembers(&cells)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = io.WriteString(w, cells.String()) // a tabwriter over a strings.Builder returns no errors
	_ = w.Flush()
	if settings, err := json.MarshalIndent(r.Settings, "  ", "  "); err == nil {
		fmt.Fprintf(&b, "settings:\n  %s\n", settings)
	}
	return b.String()
}

func (r Report) printCluster(b *strings.Builder) {
	quorum := "no quorum"
	switch {
	case r.unauthenticated:
		quorum = "quorum unknown, the login was rejected"
	case r.Health.Quorum:
		quorum = "quorum, a read took " + r.Health.Latency.Round(time.Microsecond).String()
	}
	fmt.Fprintf(b, "cluster: %x, revision %d, %s\n", r.Health.ClusterID, r.Health.Revision, quorum)
	keys := "not counted"
	if r.Keys >= 0 {
		keys = strconv.FormatInt(r.Keys, 10)
	}
	fmt.Fprintf(b, "namespace: %q, keys: %s, user: %s\n", r.Namespace, keys, cmp.Or(r.User, "none"))
}

func (r Report) printEndpoints(b *strings.Builder) {
	b.WriteString("endpoint\tconnection\tTLS\tstatus\tlatency\n")
	for _, e := range r.Endpoints {
		security := "no"
		if e.TLS != "" {
			security = e.TLS + ", " + e.Certificate + " until " + e.Expires.Format(time.DateOnly)
		}
		state := cmp.Or(e.Status, "ok")
		if e.Dial != "" {
			security, state = "?", "?"
		}
		fmt.Fprintf(b, "  %s\t%s\t%s\t%s\t%v\n", e.Endpoint, cmp.Or(e.Dial, "ok"), security, state, e.Latency.Round(time.Microsecond))
	}
}

func (r Report) printMembers(b *strings.Builder) {
	b.WriteString("member\trole\tversion\tterm\tapplied\tlag\tdatabase\tin use\talarms\n")
	for _, m := range r.Health.Members {
		if !m.Reachable {
			fmt.Fprintf(b, "  %s\t%s\n", m.displayName(), m.Err)
			continue
		}
		role := "follower"
		switch {
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		if m.Evicted {
			role += ", evicted"
		}
		fmt.Fprintf(b, "  %s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", m.displayName(), role, m.Version, m.RaftTerm, m.RaftApplied, m.RaftLag,
			m.DBSize, m.DBSizeInUse, cmp.Or(strings.Join(m.Alarms, ", "), "none"))
	}
}
