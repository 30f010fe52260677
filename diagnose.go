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

	lagMuch      = 1000                // log entries that a member may be behind before it is worth a word
	latencyMuch  = time.Second         // of a linearizable read
	expiresSoon  = 14 * 24 * time.Hour // of a server's certificate
	quotaMuch    = 0.8                 // of the database's quota
	fragmentMuch = 0.5                 // of a database file that is not in use
	fragmentMin  = 256 << 20           // below this a defragmentation is not worth it
)

// Report is what [Client.Diagnose] found out. It holds no secret, and String prints it for people.
type Report struct {
	// At is when it was made, Took how long that took.
	At   time.Time     `json:"at"`
	Took time.Duration `json:"took"`
	// Problems is what somebody should look at, in plain words; empty when all is well.
	Problems []string `json:"problems"`

	// Endpoints are the endpoints, one by one.
	Endpoints []EndpointReport `json:"endpoints"`
	// Health is the cluster as a whole.
	Health Health `json:"health"`

	// User is who the client logs in as, "" for nobody or the holder of a certificate or token.
	User string `json:"user,omitzero"`
	// Namespace is the client's dir, Keys the number of keys below it, -1 when they could not be counted.
	Namespace string `json:"namespace"`
	Keys      int64  `json:"keys"`

	// Settings is the configuration in effect, defaults included, secrets replaced.
	Settings Config `json:"settings"`

	unauthenticated bool // the read was refused, which says nothing about the quorum
}

// EndpointReport is how far one got with an endpoint.
type EndpointReport struct {
	Endpoint string `json:"endpoint"`
	// Dial is why there is no connection, "" when there is one.
	Dial string `json:"dial,omitzero"`
	// TLS is the version in use, "" for plaintext. Certificate names the server's certificate, Expires is its end.
	TLS         string    `json:"tls,omitzero"`
	Certificate string    `json:"certificate,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`
	// Status is why the member did not tell its status, wrong credentials for example; "" when it did.
	Status string `json:"status,omitzero"`
	// Latency is how long the status took.
	Latency time.Duration `json:"latency,omitzero"`
}

// OK reports whether nothing was found.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Diagnose looks at everything between the client and etcd that commonly goes wrong: for each endpoint the connection,
// TLS, authentication, leader, raft lag, alarms, version, size and latency, then a read through the cluster and the keys of the
// namespace. It writes nothing, never fails, and takes 5 s at most. It is made for a debug page or a command, not for a
// readiness probe.
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

// reports tells how far one got with each endpoint.
func (c *core) reports(ctx context.Context, all []answer) []EndpointReport {
	out := make([]EndpointReport, len(all))
	var wg sync.WaitGroup
	for i, a := range all {
		wg.Go(func() { out[i] = c.report(ctx, a) })
	}
	wg.Wait()
	return out
}

// report tells how far one got with an endpoint, of which a is the answer to a status call.
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

// findings collects what somebody should look at.
type findings []string

func (f *findings) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// judge finds what is wrong in what was seen.
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

// judge finds what is wrong with a member.
func (m Member) judge(found *findings) {
	name := m.title()
	switch {
	case !m.Reachable:
		return // told with its endpoint; that none leads to it is no fault
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

// title is what people call a member.
func (m Member) title() string {
	switch {
	case m.Name != "":
		return m.Name
	case m.ID != 0:
		return strconv.FormatUint(m.ID, 16)
	}
	return m.Endpoint
}
