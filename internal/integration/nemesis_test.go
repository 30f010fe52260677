//nolint:paralleltest // a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

const (
	faultsEnv = "ETCDKIT_FAULTS"      // for how long the storm lasts, such as "20m"
	seedEnv   = "ETCDKIT_FAULTS_SEED" // of the order of faults

	stormProcesses = 4

	stormUser, peerUser = "app", "peer"
	stormPassword       = "a password of the storm"
)

// stormRun is a cluster, the processes that work on it, and what etcd says has happened.
type stormRun struct {
	t          *testing.T
	dir        string
	base       int64 // on the clock that all processes share
	start      time.Time
	cluster    *etcdtest.Cluster
	pki        *etcdtest.PKI
	clientPair etcdtest.KeyPair
	admin      *clientv3.Client
	asRoot     func(*clientv3.Config)
	truth      *chronicle
	resumed    []int64 // when leaders that were frozen continued

	epoch     time.Duration // after which the processes begin their histories anew; 0 for never
	withPeers bool

	passwordFile string
	passwords    int

	processes []*stormChild // also those that were killed
}

func (r *stormRun) clock() int64 { return int64(time.Since(r.start)) }

func newStormRun(t *testing.T) *stormRun {
	t.Helper()
	base := monotonic(t)
	r := &stormRun{t: t, dir: t.TempDir(), base: base, start: startOf(t, base), pki: etcdtest.Certs(t)}
	r.clientPair = r.pki.IssueClient("storm")
	r.cluster = etcdtest.StartCluster(t, 3, etcdtest.WithNetwork(), etcdtest.WithTLS(r.pki.MutualTLS(r.pki.Server)))
	r.passwordFile = filepath.Join(r.dir, "password")
	require.NoError(t, os.WriteFile(r.passwordFile, []byte(stormPassword), 0o600))
	grants := []etcdtest.Grant{etcdtest.ReadWrite(stormDir)}
	etcdtest.EnableAuth(t, r.cluster.Members[0],
		etcdtest.User{Name: stormUser, Password: stormPassword, Grants: grants},
		etcdtest.User{Name: peerUser, Password: stormPassword, Grants: grants})
	r.asRoot = etcdtest.As("root", etcdtest.RootPassword)
	r.admin = r.cluster.Client(t, r.asRoot)
	r.truth = newChronicle(t, r.cluster.Client(t, r.asRoot), stormDir, r.clock)
	for i := range accounts {
		_, err := r.admin.Put(t.Context(), stormDir+bankAccount(i), formatCount(100, "begin"))
		require.NoError(t, err)
	}
	return r
}

// join starts a process of the storm.
func (r *stormRun) join(t *testing.T, l link) {
	t.Helper()
	name := fmt.Sprint("p", len(r.processes)+1)
	path := func(ext string) string { return filepath.Join(r.dir, name+ext) }
	files := etcdkit.TLSConfig{CAFile: r.pki.CAFile, CertFile: r.clientPair.CertFile, KeyFile: r.clientPair.KeyFile}
	p := &stormChild{run: r, link: l, plan: stormPlan{
		Name: name, Base: r.base, Journal: path(".journal"), Log: path(".log"), Config: path(".json"),
		Epoch: r.epoch,
	}}
	if r.withPeers {
		p.plan.Peers = &peerConfig{Endpoints: l.endpoints(), TLS: files, Username: peerUser, Password: stormPassword}
	}
	writeJSON(t, p.plan.Config, map[string]any{
		"endpoints": l.endpoints(), "username": stormUser, "passwordFile": r.passwordFile, "tls": files,
		"namespace": stormDir, "sessionTTL": stormTTL.String(),
	})
	writeJSON(t, path(".plan"), p.plan)
	require.NoError(t, os.WriteFile(p.plan.Journal, nil, 0o600))
	p.childProcess = newChild(t, "storm", []string{path(".plan")})
	r.processes = append(r.processes, p)
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o600))
}

// living returns the processes that were not killed.
func (r *stormRun) living() (all []*stormChild) {
	for _, p := range r.processes {
		if p.killed[0] == 0 {
			all = append(all, p)
		}
	}
	return all
}

// order gives all living processes an order, and waits until each has said what it says then.
func (r *stormRun) order(t *testing.T, line, said string) {
	t.Helper()
	for _, p := range r.living() {
		if line != "" {
			p.tell(line)
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for _, p := range r.living() {
		select {
		case got, ok := <-p.lines:
			require.True(t, ok, "%s has ended", p.plan.Name)
			require.Equal(t, said, got, p.plan.Name)
		case <-timer.C:
			require.FailNow(t, "a process does not answer", "%s: %q", p.plan.Name, line)
		}
	}
}

// configure writes the configuration that the processes follow: numbers that rise, and some that
// are invalid.
func (r *stormRun) configure(ctx context.Context) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		value := n
		if n%4 == 0 {
			value = -n
		}
		attempt, stop := context.WithTimeout(ctx, 2*time.Second)
		_, _ = r.admin.Put(attempt, stormDir+"cfg/limit", strconv.Itoa(value)) // the history says what became of it
		stop()
	}
}

// TestNemesis has several processes use all packages at once while members, networks and the
// processes themselves are broken in a random order, and checks what they were told against what
// etcd says has happened.
func TestNemesis(t *testing.T) {
	text := os.Getenv(faultsEnv)
	if text == "" {
		t.Skipf("%s is not set", faultsEnv)
	}
	lasts, err := time.ParseDuration(text)
	require.NoError(t, err)
	seed := rand.Uint64()
	if s := os.Getenv(seedEnv); s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%s %s=%d", faultsEnv, text, seedEnv, seed)

	r := newStormRun(t)
	r.epoch, r.withPeers = stormEpoch, true
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	configured := make(chan struct{})
	go func() {
		defer close(configured)
		r.configure(ctx)
	}()
	for range stormProcesses {
		r.join(t, newLink(t, r.cluster))
	}
	n := &nemesis{stormRun: r, rand: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}}
	n.rage(t, time.Now().Add(lasts))
	complete := !t.Failed()
	t.Logf("%d kinds of faults: %v", len(n.counts), n.counts)

	stop()
	<-configured
	r.setConfig(t)
	for _, p := range r.living() { // those that joined late may still be beginning
		require.Equal(t, "working", <-p.lines)
	}
	r.order(t, "rest", "resting")
	r.order(t, strconv.Itoa(len(r.living())), "settled")
	changes := r.truth.read(t)
	for _, p := range r.living() {
		require.NoError(t, p.in.Close())
	}
	for _, p := range r.living() {
		for range p.lines { // until it has closed everything
		}
	}
	findings := r.check(t, changes)
	r.checkLogs(t)
	for _, dir := range []string{"locks/", "elections/", "keys/"} {
		assertEmpty(t, r.admin, stormDir+dir)
	}
	require.True(t, complete, "a fault could not be made, or put right")
	record(t, func(all *reliability) {
		all.Storm = newReliabilityRun(t, "make faults", text)
		all.Storm.Faults, all.Storm.Findings = n.counts, findings
	})
}

// setConfig ends the configuration with a valid value.
func (r *stormRun) setConfig(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		_, err := r.admin.Put(ctx, stormDir+"cfg/limit", "1000000")
		return err == nil
	}, 30*time.Second, 100*time.Millisecond)
}
