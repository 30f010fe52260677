package etcdkit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/etcdkit/etcdkit/internal/wire"
)

const (
	diagnoseWithin = 5 * time.Second

	lagMuch      = 1000                // log entries that a member may be behind
	latencyMuch  = time.Second         // of a linearizable read
	expiresSoon  = 14 * 24 * time.Hour // until a server's certificate expires
	quotaMuch    = 0.8                 // of the database's quota
	fragmentMuch = 0.5                 // of the database file that must be in use
	fragmentMin  = 256 << 20           // smaller files are not worth a defragmentation
)

// Report is the result of [Client.Diagnose]. It contains no secret. String formats it for people.
type Report struct {
	// At is when Diagnose started, Took how long it ran.
	At   time.Time     `json:"at"`
	Took time.Duration `json:"took"`
	// Problems describes everything that needs attention, in plain words. It is empty if there is
	// nothing.
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
	began := time.Now()
	r := Report{At: began, Namespace: c.set.namespace + c.below, Keys: -1, Settings: c.set.cfg, User: c.set.cfg.Username}
	if ctx == nil {
		r.Problems = []string{"no context was given"}
		return r
	}
	ctx, stop := context.WithTimeout(ctx, diagnoseWithin)
	defer stop()
	r.Settings.Endpoints = c.endpoints()
	var found findings
	var keys int64
	var health, count error
	var wg sync.WaitGroup
	wg.Go(func() { r.Health, health = c.health(ctx, func(all []answer) { r.Endpoints = c.reports(ctx, all) }) })
	wg.Go(func() { keys, count = c.store.Count(ctx, "") })
	wg.Wait()
	if health != nil {
		found.add("%v", health)
		r.unauthenticated = errors.Is(health, ErrUnauthenticated)
	}
	switch {
	case count == nil:
		r.Keys = keys
	case r.Health.Quorum:
		found.add("the keys of the namespace cannot be counted: %v", reasonOf(count))
	}
	r.judge(&found)
	r.Problems, r.Took = found, time.Since(began)
	return r
}

// reports returns a report for each of the answers.
func (c *core) reports(ctx context.Context, all []answer) []EndpointReport {
	out := make([]EndpointReport, len(all))
	var wg sync.WaitGroup
	for i, a := range all {
		wg.Go(func() { out[i] = c.report(ctx, a) })
	}
	wg.Wait()
	return out
}

// report describes an endpoint, given its answer to a status call.
func (c *core) report(ctx context.Context, a answer) EndpointReport {
	out := EndpointReport{Endpoint: a.ep, Latency: a.latency}
	if a.tls != nil {
		out.describeTLS(a.tls)
	}
	if a.err == nil {
		return out
	}
	ctx, stop := context.WithTimeout(ctx, statusWithin)
	defer stop()
	if err := c.lines.explain(ctx, a.ep); err != nil {
		out.Dial = wire.Plain(err).Error()
		return out
	}
	out.Status = a.reason().Error()
	return out
}

func (e *EndpointReport) describeTLS(info *credentials.TLSInfo) {
	e.TLS = tls.VersionName(info.State.Version)
	if certs := info.State.PeerCertificates; len(certs) > 0 {
		e.Certificate, e.Expires = certs[0].Subject.String(), certs[0].NotAfter
	}
}

// findings collects descriptions of problems.
type findings []string

func (f *findings) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// judge adds the problems of the report to found.
func (r Report) judge(found *findings) {
	for _, e := range r.Endpoints {
		switch {
		case e.Dial != "":
			found.add("%s cannot be reached: %s", e.Endpoint, e.Dial)
		case e.Status != "":
			found.add("%s does not tell its status: %s", e.Endpoint, e.Status)
		}
		if !e.Expires.IsZero() && time.Until(e.Expires) < expiresSoon {
			found.add("%s has a certificate that ends at %s", e.Endpoint, e.Expires.Format(time.RFC3339))
		}
	}
	for _, alarm := range r.Health.Alarms {
		found.add("alarm: %s", alarm)
	}
	if r.Health.Quorum && r.Health.Latency > latencyMuch {
		found.add("a linearizable read took %v", r.Health.Latency.Round(time.Millisecond))
	}
	versions := map[string]bool{}
	for _, m := range r.Health.Members {
		m.judge(found)
		if m.Reachable {
			versions[m.Version] = true
		}
	}
	if len(versions) > 1 {
		found.add("members have different versions")
	}
}

// judge adds the problems of a member to found.
func (m Member) judge(found *findings) {
	name := m.title()
	switch {
	case !m.Reachable:
		return // reported with its endpoint; a member without an endpoint is no problem
	case m.RaftLag > lagMuch:
		found.add("member %s is %d log entries behind", name, m.RaftLag)
	}
	if cause := unsupportedReason(m.Version); cause != "" {
		found.add("member %s runs etcd %s, which is not supported: %s", name, m.Version, cause)
	}
	if m.DBQuota > 0 && float64(m.DBSize) > quotaMuch*float64(m.DBQuota) {
		found.add("member %s has used %d of %d bytes of its quota", name, m.DBSize, m.DBQuota)
	}
	if m.DBSize > fragmentMin && float64(m.DBSizeInUse) < fragmentMuch*float64(m.DBSize) {
		found.add("member %s would shrink from %d to %d bytes by a defragmentation", name, m.DBSize, m.DBSizeInUse)
	}
}

// title returns the name of a member, or else its ID or endpoint.
func (m Member) title() string {
	switch {
	case m.Name != "":
		return m.Name
	case m.ID != 0:
		return strconv.FormatUint(m.ID, 16)
	}
	return m.Endpoint
}
