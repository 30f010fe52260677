package sim

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// RequestFaults are probabilities for each unary request. One that is lost, or whose answer is
// lost, breaks its connection in half of the cases. In the others it is answered with etcd's error
// for a timeout after 7 s, as when a proposal is dropped.
type RequestFaults struct {
	LoseRequest float64 // it is not carried out
	LoseAnswer  float64 // it is carried out, and its answer is lost
	Late        float64 // it is carried out up to 3 s later
	Hang        bool    // lost requests are not answered at all, which needs a proxy before etcd
}

// fate is what becomes of one request.
type fate struct {
	kind  string // "": nothing
	delay time.Duration
	reset bool // the connection breaks as well
	hang  bool // there is no answer
}

func (f fate) String() string {
	if f.kind == "" {
		return ""
	}
	return fmt.Sprintf(" [%s %v reset=%v]", f.kind, f.delay, f.reset)
}

// The fates of a request.
const (
	requestLost = "request lost"
	answerLost  = "answer lost"
	late        = "late"
)

// fate draws what becomes of a request.
func (s *Sim) fate(method string) fate {
	p := s.faults.requests
	if p.LoseRequest+p.LoseAnswer+p.Late == 0 || method == "Status" || method == "LeaseKeepAlive" {
		return fate{}
	}
	u, f := s.rng.Float64(), fate{reset: s.rng.IntN(2) == 0, hang: p.Hang}
	switch {
	case u < p.LoseRequest:
		f.kind = requestLost
	case u < p.LoseRequest+p.LoseAnswer:
		f.kind = answerLost
	case u < p.LoseRequest+p.LoseAnswer+p.Late:
		f.kind, f.delay = late, time.Duration(s.rng.Int64N(int64(3*time.Second)))
	default:
		return fate{}
	}
	s.counts["fault "+f.kind]++
	return f
}

// request carries out a request, or loses it.
func (f fate) request(m *Member, from string, do func(), fail func(error)) {
	switch f.kind {
	case requestLost:
		f.lose(m, from, fail)
	case late:
		m.after(f.delay, do)
	default:
		m.do(do)
	}
}

// respond delivers a response, or loses it.
func (f fate) respond(m *Member, from string, deliver func(), fail func(error)) {
	if f.kind == answerLost {
		f.lose(m, from, fail)
		return
	}
	deliver()
}

// lose breaks the connection, fails the request after a while, or does nothing.
func (f fate) lose(m *Member, from string, fail func(error)) {
	switch {
	case f.hang:
	case f.reset:
		m.sim.network.each("", m.name, func(l *link) {
			if l.name == from {
				l.reset()
			}
		})
	default:
		m.after(requestTimeout, func() { fail(rpctypes.ErrGRPCTimeout) })
	}
}
