package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit"
)

// healthBody says whether etcd answers. It is not in an envelope: probes look at the status, and people at this.
type healthBody struct {
	Status         string    `json:"status"` // UP or DOWN
	Message        string    `json:"message"`
	ActiveWatchers int       `json:"activeWatchers"`
	Timestamp      time.Time `json:"timestamp"`
}

// health is 200 when a linearizable read was answered within 2 s, and 503 when it was not. It writes nothing, and however
// many ask, etcd is asked once at a time. It needs no token and names no address.
func (s *service) health(r *request) (answer, error) {
	var probe probe
	s.ready.ServeHTTP(&probe, r.Request)
	body := healthBody{
		Status: "UP", Message: "etcd answers", ActiveWatchers: s.client.Watcher().Active(), Timestamp: time.Now().UTC(),
	}
	if probe.status != http.StatusOK {
		body.Status, body.Message = "DOWN", probe.body.Reason
	}
	text, err := marshal(body)
	return answer{status: probe.status, bare: text, contentType: "application/json"}, err
}

// probe takes the answer of etcdkit's own readiness handler.
type probe struct {
	status int
	body   struct {
		Reason string `json:"reason"`
	}
	header http.Header
}

// Header is not looked at.
func (p *probe) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}

// WriteHeader takes the status.
func (p *probe) WriteHeader(status int) { p.status = status }

// Write takes the body, which comes in one piece.
func (p *probe) Write(b []byte) (int, error) { return len(b), json.Unmarshal(b, &p.body) }

// memberBody is a member of the cluster.
type memberBody struct {
	ID          string   `json:"id,omitempty"` // in hexadecimal, as etcdctl has it; none for an endpoint that nobody knows
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

// cluster is the members, those that do not answer included. It needs no quorum.
func (s *service) cluster(r *request) (answer, error) {
	members, err := s.client.Members(r.Context())
	if err != nil {
		return answer{}, err
	}
	bodies := make([]memberBody, len(members))
	for n := range members {
		bodies[n] = memberBodyOf(&members[n])
	}
	return answer{data: map[string]any{"members": bodies}}, nil
}

func memberBodyOf(m *etcdkit.Member) memberBody {
	b := memberBody{
		Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Endpoint: m.Endpoint, Reachable: m.Reachable, Error: m.Err,
		Leader: m.Leader, Learner: m.Learner, Evicted: m.Evicted, Version: m.Version, RaftLag: m.RaftLag,
		DBSize: m.DBSize, DBSizeInUse: m.DBSizeInUse, Alarms: m.Alarms,
	}
	if m.ID != 0 {
		b.ID = strconv.FormatUint(m.ID, 16)
	}
	return b
}
