package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mainEnv makes the test binary behave as the program, also where the program starts itself.
const mainEnv = "DEVETCD_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is a running devetcd.
type program struct {
	cmd       *exec.Cmd
	out       *bufio.Reader
	endpoints []string
	pids      []int // of the members
}

// devetcd returns the command line of the program.
func devetcd(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1", "TMPDIR="+t.TempDir())
	return cmd
}

// start runs devetcd and returns when it has printed where it is.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	return startCommand(t, devetcd(t, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd}
	stdout, err := p.cmd.StdoutPipe()
	must(t, err)
	p.cmd.Stderr = os.Stderr
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	p.out = bufio.NewReader(stdout)
	export := regexp.MustCompile(`export ETCD_ENDPOINTS=(\S+)`)
	process := regexp.MustCompile(`^ +m\d +pid (\d+) +http`)
	for {
		line, err := p.out.ReadString('\n')
		must(t, err)
		if found := process.FindStringSubmatch(line); found != nil {
			pid, err := strconv.Atoi(found[1])
			must(t, err)
			p.pids = append(p.pids, pid)
		}
		if found := export.FindStringSubmatch(line); found != nil {
			p.endpoints = strings.Split(found[1], ",")
			return p
		}
	}
}

// stop asks the program to end and waits for that.
func (p *program) stop(t *testing.T, sig os.Signal) {
	t.Helper()
	must(t, p.cmd.Process.Signal(sig))
	_, err := io.Copy(io.Discard, p.out)
	must(t, err)
	must(t, p.cmd.Wait())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call is a request to etcd's JSON gateway.
func call(t *testing.T, endpoint, method, body string) string {
	t.Helper()
	resp, err := http.Post(endpoint+"/v3/kv/"+method, "application/json", strings.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", method, resp.Status, text)
	}
	return string(text)
}

// kill kills a member, as kill -9 does.
func kill(t *testing.T, pid int) {
	t.Helper()
	member, err := os.FindProcess(pid)
	must(t, err)
	must(t, member.Kill())
}

// gone waits until nothing answers at the endpoint.
func gone(t *testing.T, endpoint string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(endpoint + "/health")
		if err != nil {
			return
		}
		_ = resp.Body.Close()
		if time.Now().After(deadline) {
			t.Fatalf("%s still answers", endpoint)
		}
	}
}

func TestDevetcd_PrintsEndpointsThatAnswer(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]int{"of one member": 1, "of three members": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, "-members", string(rune('0'+members)))
			if len(p.endpoints) != members {
				t.Fatalf("%d endpoints for %d members", len(p.endpoints), members)
			}
			call(t, p.endpoints[0], "put", `{"key":"a2V5","value":"dmFsdWU="}`)
			for _, ep := range p.endpoints {
				if got := call(t, ep, "range", `{"key":"a2V5"}`); !strings.Contains(got, `"dmFsdWU="`) {
					t.Errorf("%s: %s", ep, got)
				}
			}
			p.stop(t, os.Interrupt)
		})
	}
}

func TestDevetcd_LeavesNothingAfterSIGTERM(t *testing.T) {
	t.Parallel()
	p := start(t, "-members", "3")
	tmp := tmpdir(t, p.cmd)
	if len(glob(t, tmp)) != 1 {
		t.Fatalf("no data in %s", tmp)
	}
	p.stop(t, syscall.SIGTERM)
	for _, ep := range p.endpoints {
		if resp, err := http.Get(ep + "/health"); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s still answers", ep)
		}
	}
	if left := glob(t, tmp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDevetcd_MembersEndWithKilledProgram(t *testing.T) {
	t.Parallel()
	p := start(t)
	must(t, p.cmd.Process.Kill())
	gone(t, p.endpoints[0])
}

func TestDevetcd_RestartsMemberThatWasKilled(t *testing.T) {
	t.Parallel()
	p := start(t, "-members", "3")
	call(t, p.endpoints[0], "put", `{"key":"a2V5","value":"dmFsdWU="}`)
	pid := p.pids[1]
	kill(t, pid)
	line, err := p.out.ReadString('\n')
	for err == nil && !strings.HasPrefix(line, "member") {
		line, err = p.out.ReadString('\n')
	}
	must(t, err)
	if want := fmt.Sprintf("member m2 (pid %d) ended: signal: killed; restarted it as pid ", pid); !strings.HasPrefix(line, want) {
		t.Fatalf("%q, want %q", line, want)
	}
	c := &cluster{ended: make(chan *child)}
	must(t, c.waitReady(t.Context(), p.endpoints[1]))
	if got := call(t, p.endpoints[1], "range", `{"key":"a2V5"}`); !strings.Contains(got, `"dmFsdWU="`) {
		t.Error(got)
	}
	p.stop(t, os.Interrupt)
}

func TestDevetcd_RestartsMemberHoweverOftenItIsKilled(t *testing.T) {
	t.Parallel()
	p := start(t)
	pid := p.pids[0]
	restarted := regexp.MustCompile(`^member m1 \(pid \d+\) ended: signal: killed; restarted it as pid (\d+)\n$`)
	for range maxFailures + 1 {
		kill(t, pid)
		line, err := p.out.ReadString('\n')
		for err == nil && !strings.HasPrefix(line, "member") {
			line, err = p.out.ReadString('\n')
		}
		must(t, err)
		found := restarted.FindStringSubmatch(line)
		if found == nil {
			t.Fatal(line)
		}
		pid, err = strconv.Atoi(found[1])
		must(t, err)
	}
	p.stop(t, os.Interrupt)
}

func TestDevetcd_GivesUpOnMemberThatKeepsFailing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "-data", dir)
	must(t, os.RemoveAll(filepath.Join(dir, "m1")))
	must(t, os.WriteFile(filepath.Join(dir, "m1"), nil, 0o600)) // no data directory can be made here
	kill(t, p.pids[0])
	out, err := io.ReadAll(p.out)
	must(t, err)
	if err := p.cmd.Wait(); err == nil {
		t.Error("it did not fail")
	}
	if n := strings.Count(string(out), "restarted it as pid"); n < 2 || n > 3 {
		t.Errorf("%d restarts: %s", n, out)
	}
}

func TestDevetcd_RefusesDataInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "-data", dir)
	log := filepath.Join(dir, "m1.log")
	before, err := os.ReadFile(log)
	must(t, err)
	out, err := devetcd(t, "-data", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another devetcd uses "+dir) {
		t.Errorf("%v: %s", err, out)
	}
	after, err := os.ReadFile(log)
	must(t, err)
	if !bytes.HasPrefix(after, before) {
		t.Error("the second one has truncated the log of the first")
	}
	p.stop(t, os.Interrupt)
}

func TestServe_EndsWithItsInput(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(2)
	must(t, err)
	m := member{Name: "m1", ClientPort: ports[0], PeerPort: ports[1]}
	c := &cluster{dir: t.TempDir(), temporary: true, plan: plan{Members: []member{m}}}
	cmd := devetcd(t, append([]string{"server", untilEOF}, c.flags(m)...)...)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	must(t, c.waitReady(t.Context(), m.ClientURL()))

	must(t, stdin.Close())
	must(t, cmd.Wait())
	gone(t, m.ClientURL())
}

func TestDevetcd_KeepsDataAndEndpoints(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "-data", dir, "-members", "3")
	call(t, p.endpoints[0], "put", `{"key":"a2V5","value":"dmFsdWU="}`)
	before := p.endpoints
	p.stop(t, os.Interrupt)

	p = start(t, "-data", dir)
	if strings.Join(p.endpoints, ",") != strings.Join(before, ",") {
		t.Errorf("endpoints %v, before %v", p.endpoints, before)
	}
	if got := call(t, p.endpoints[2], "range", `{"key":"a2V5"}`); !strings.Contains(got, `"dmFsdWU="`) {
		t.Error(got)
	}
	p.stop(t, os.Interrupt)
}

func TestDevetcd_UsesGivenPorts(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(1)
	must(t, err)
	want := member{ClientPort: ports[0]}.ClientURL()
	p := start(t, "-ports", strings.TrimPrefix(want, "http://127.0.0.1:"))
	if p.endpoints[0] != want {
		t.Errorf("endpoint %s instead of %s", p.endpoints[0], want)
	}
	p.stop(t, os.Interrupt)
}

//nolint:tparallel // the program that is in the way has to stay until the end
func TestDevetcd_RefusesInvalidArguments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text, err := json.Marshal(plan{Members: []member{{Name: "m1", ClientPort: 1, PeerPort: 2}}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "devetcd.json"), text, 0o600))
	taken, err := freePorts(1)
	must(t, err)
	busy := start(t, "-ports", strings.TrimPrefix(member{ClientPort: taken[0]}.ClientURL(), "http://127.0.0.1:"))

	tests := map[string]struct {
		args []string
		want string
	}{
		"more members than make sense":        {[]string{"-members", "8"}, "-members: 8"},
		"a port that is none":                 {[]string{"-ports", "http"}, `-ports: "http"`},
		"ports for other members":             {[]string{"-members", "3", "-ports", "1,2"}, "2 ports for 3 members"},
		"data of a cluster of another size":   {[]string{"-members", "3", "-data", dir}, "cluster of 1"},
		"an unknown flag":                     {[]string{"-nodes", "3"}, "-nodes"},
		"something that is no flag":           {[]string{"3"}, `unexpected argument "3"`},
		"the same port twice":                 {[]string{"-ports", "1,2,1"}, "-ports: 1 appears twice"},
		"a port that another program has got": {[]string{"-ports", busy.endpoints[0][len("http://127.0.0.1:"):]}, "address already in use"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := devetcd(t, tc.args...).CombinedOutput()
			if err == nil {
				t.Error("it was accepted")
			}
			if !strings.Contains(string(out), tc.want) {
				t.Errorf("%q is not in: %s", tc.want, out)
			}
		})
	}
	busy.stop(t, os.Interrupt)
}

func tmpdir(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	for _, kv := range slices.Backward(cmd.Env) {
		if dir, ok := strings.CutPrefix(kv, "TMPDIR="); ok && dir != os.Getenv("TMPDIR") {
			return dir
		}
	}
	t.Fatal("no TMPDIR")
	return ""
}

func glob(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "devetcd-*"))
	must(t, err)
	return found
}
