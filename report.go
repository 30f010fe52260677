package etcdkit

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// String formats the report for people.
func (r Report) String() string {
	var b strings.Builder
	verdict := "all is well"
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
		quorum = "quorum not known, the login was refused"
	case r.Health.Quorum:
		quorum = "quorum, a read took " + r.Health.Latency.Round(time.Microsecond).String()
	}
	fmt.Fprintf(b, "cluster: %x, revision %d, %s\n", r.Health.ClusterID, r.Health.Revision, quorum)
	keys := "not counted"
	if r.Keys >= 0 {
		keys = strconv.FormatInt(r.Keys, 10)
	}
	user := r.User
	if user == "" {
		user = "none"
	}
	fmt.Fprintf(b, "namespace: %q, keys: %s, user: %s\n", r.Namespace, keys, user)
}

func (r Report) printEndpoints(b *strings.Builder) {
	b.WriteString("endpoint\tconnection\tTLS\tstatus\tlatency\n")
	for _, e := range r.Endpoints {
		security := "no"
		if e.TLS != "" {
			security = e.TLS + ", " + e.Certificate + " until " + e.Expires.Format(time.DateOnly)
		}
		state := or(e.Status, "ok")
		if e.Dial != "" {
			security, state = "?", "?"
		}
		fmt.Fprintf(b, "  %s\t%s\t%s\t%s\t%v\n", e.Endpoint, or(e.Dial, "ok"), security, state, e.Latency.Round(time.Microsecond))
	}
}

func (r Report) printMembers(b *strings.Builder) {
	b.WriteString("member\trole\tversion\tterm\tapplied\tlag\tdatabase\tin use\talarms\n")
	for _, m := range r.Health.Members {
		if !m.Reachable {
			fmt.Fprintf(b, "  %s\t%s\n", m.title(), m.Err)
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
			role += ", left out"
		}
		fmt.Fprintf(b, "  %s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", m.title(), role, m.Version, m.RaftTerm, m.RaftApplied, m.RaftLag,
			m.DBSize, m.DBSizeInUse, or(strings.Join(m.Alarms, ", "), "none"))
	}
}

// or returns text, or instead if text is empty.
func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}
