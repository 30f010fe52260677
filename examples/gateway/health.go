package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit"
)

// healthBody says whether etcd answers. It has no envelope: probes look at the status only. The
// details can be switched off, since the route needs no token.
type healthBody struct {
	Status         string    `json:"status"` // UP or DOWN
	Message        string    `json:"message,omitempty"`
	ActiveWatchers *int      `json:"activeWatchers,omitempty"`
	Timestamp      time.Time `json:"timestamp,omitzero"`
}

// health returns 200 if etcd has answered a linearizable read within 2 s, and 503 otherwise. It
// writes nothing, and concurrent requests share one read. It needs no token and shows no address.
func (s *service) health(r *request) (response, error) {
	var result readiness
	s.ready.ServeHTTP(&result, r.Request)
	body, message := healthBody{Status: "UP"}, "etcd answers"
	if result.status != http.StatusOK {
		body.Status, message = "DOWN", result.body.Reason
	}
	if s.set.Gateway.HealthDetails {
		body.Message, body.ActiveWatchers = message, new(s.client.Watcher().Active())
		body.Timestamp = time.Now().UTC()
	}
	text, err := marshal(body)
	return response{status: result.status, bare: text, contentType: "application/json"}, err
}

// readiness records the answer of etcdkit's readiness handler.
type readiness struct {
	status int
	body   struct {
		Reason string `json:"reason"`
	}
	header http.Header
}

// Header returns headers that are discarded.
func (p *readiness) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}

// WriteHeader records the status.
func (p *readiness) WriteHeader(status int) { p.status = status }

// Write records the body, which the handler writes at once.
func (p *readiness) Write(b []byte) (int, error) { return len(b), json.Unmarshal(b, &p.body) }

// memberBody is a member of the cluster.
type memberBody struct {
	ID          string   `json:"id,omitempty"` // in hexadecimal; absent if the endpoint did not answer
	Name        string   `json:"name,omitempty"`
	PeerURLs    []string `json:"peerURLs,omitempty"`
	ClientURLs  []string `json:"clientURLs,omitempty"`
	Endpoint    string   `json:"endpoint,omitempty"`
	Reachable   bool     `json:"reachable"`
	Error       string   `json:"error,omitempty"`
	Leader      bool     `json:"leader"`
	Learner     bool     `json:"learner"`
	Evicted     bool     `json:"evicted"`
	Version     string   `json:"version,omitempty"`
	RaftLag     uint64   `json:"raftLag"`
	DBSize      int64    `json:"dbSize"`
	DBSizeInUse int64    `json:"dbSizeInUse"`
	Alarms      []string `json:"alarms,omitempty"`
}

// cluster lists the members, including those that do not answer. It needs no quorum.
func (s *service) cluster(r *request) (response, error) {
	members, err := s.client.Members(r.Context())
	if err != nil {
		return response{}, err
	}
	bodies := make([]memberBody, len(members))
	for n := range members {
		bodies[n] = memberBodyOf(&members[n])
	}
	return response{data: bodies}, nil
}

func memberBodyOf(m *etcdkit.Member) memberBody {
	b := memberBody{
		Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Endpoint: m.Endpoint,
		Reachable: m.Reachable, Error: m.Err, Leader: m.Leader, Learner: m.Learner, Evicted: m.Evicted,
		Version: m.Version, RaftLag: m.RaftLag, DBSize: m.DBSize, DBSizeInUse: m.DBSizeInUse, Alarms: m.Alarms,
	}
	if m.ID != 0 {
		b.ID = strconv.FormatUint(m.ID, 16)
	}
	return b
}
