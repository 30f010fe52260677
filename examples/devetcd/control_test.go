package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// send runs a command of devetcd with the temporary directory of p and returns what it prints.
func (p *program) send(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := devetcd(t, args...)
	cmd.Env = append(cmd.Env, "TMPDIR="+tmpdir(t, p.cmd))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sends runs a command that must succeed, and checks what it prints.
func (p *program) sends(t *testing.T, want string, args ...string) []string {
	t.Helper()
	out, err := p.send(t, args...)
	found := regexp.MustCompile(`^` + want + `\n$`).FindStringSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("%v: %v: %q, want %q", args, err, out, want)
	}
	return found
}

// refuses runs a command that must fail, and checks why.
func (p *program) refuses(t *testing.T, want string, args ...string) {
	t.Helper()
	out, err := p.send(t, args...)
	if err == nil || !strings.Contains(out, want) {
		t.Errorf("%v: %v: %q, want %q", args, err, out, want)
	}
}

// answers reports whether a member answers a request within a second.
func answers(endpoint string) bool {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(endpoint + "/version")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func comesBack(t *testing.T, endpoint string) {
	t.Helper()
	c := &cluster{ended: make(chan *child)}
	must(t, c.waitReady(t.Context(), endpoint))
}

func TestDevetcd_PausesAndResumesMember(t *testing.T) {
	t.Parallel()
	p := start(t, "-members", "3")
	m2 := fmt.Sprintf(`m2 \(pid %d\)`, p.pids[1])
	p.sends(t, m2+` is paused`, "pause", "m2")
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.endpoints[1], "http://"))
	must(t, err) // the system accepts connections
	must(t, conn.Close())
	if answers(p.endpoints[1]) {
		t.Error("a paused member answers")
	}
	call(t, p.endpoints[0], "put", `{"key":"a2V5","value":"dmFsdWU="}`)
	p.refuses(t, "pause: "+strings.ReplaceAll(m2, `\`, "")+" is paused", "pause", "m2")
	out, err := p.send(t, "status")
	if err != nil || !strings.Contains(out, p.endpoints[1]+"  paused\n") || strings.Count(out, "\n") != 3 {
		t.Errorf("%v: %s", err, out)
	}

	p.sends(t, m2+` runs again`, "resume", "m2")
	comesBack(t, p.endpoints[1])
	if got := call(t, p.endpoints[1], "range", `{"key":"a2V5"}`); !strings.Contains(got, `"dmFsdWU="`) {
		t.Error(got)
	}
	p.refuses(t, "is running", "resume", "m2")
	p.stop(t, os.Interrupt)
}

func TestDevetcd_KeepsKilledMemberDownUntilRestart(t *testing.T) {
	t.Parallel()
	p := start(t, "-members", "3")
	m3 := fmt.Sprintf(`m3 \(pid %d\)`, p.pids[2])
	p.sends(t, m3+` is killed; "devetcd restart m3" starts it again`, "kill", "m3")
	gone(t, p.endpoints[2])
	p.refuses(t, "is killed", "kill", "m3")
	p.refuses(t, "is killed", "pause", "m3")
	p.refuses(t, "is killed", "resume", "m3")
	time.Sleep(3 * restartDelay) // it stays down for longer than one that died would
	if answers(p.endpoints[2]) {
		t.Error("it was restarted")
	}
	call(t, p.endpoints[0], "put", `{"key":"a2V5","value":"dmFsdWU="}`)

	found := p.sends(t, `m3 \(pid (\d+)\) is restarted`, "restart", "m3")
	if found[1] == strconv.Itoa(p.pids[2]) {
		t.Error("the process is the old one")
	}
	comesBack(t, p.endpoints[2])
	if got := call(t, p.endpoints[2], "range", `{"key":"a2V5"}`); !strings.Contains(got, `"dmFsdWU="`) {
		t.Error(got)
	}
	p.sends(t, `m3 \(pid \d+\) is paused`, "pause", "m3")
	p.sends(t, `m3 \(pid \d+\) is restarted`, "restart", "m3") // whatever its state
	comesBack(t, p.endpoints[2])
	p.stop(t, os.Interrupt)
}

func TestDevetcd_RestartsPausedMemberThatWasKilled(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.sends(t, `m1 \(pid \d+\) is paused`, "pause", "m1")
	kill(t, p.pids[0])
	for {
		line, err := p.out.ReadString('\n')
		must(t, err)
		if strings.Contains(line, "restarted it as pid") {
			break
		}
	}
	comesBack(t, p.endpoints[0])
	p.refuses(t, "is running", "resume", "m1")
	p.stop(t, os.Interrupt)
}

func TestDevetcd_StopsPausedMembersAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, "-members", "3")
	for _, name := range []string{"m1", "m2", "m3"} {
		p.sends(t, name+` \(pid \d+\) is paused`, "pause", name)
	}
	began := time.Now()
	p.stop(t, os.Interrupt)
	if took := time.Since(began); took > stopTimeout {
		t.Errorf("it took %v", took)
	}
	for _, pid := range p.pids {
		if process, err := os.FindProcess(pid); err == nil && process.Signal(syscall.Signal(0)) == nil {
			t.Errorf("%d is still there", pid)
		}
	}
	if left := glob(t, tmpdir(t, p.cmd)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDevetcd_RefusesCommandsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	p := start(t)
	for want, args := range map[string][]string{
		`no member "m9": the members are m1`: {"pause", "m9"},
		`name one member, such as m1`:        {"kill"},
		"resume: name one member":            {"resume", "m1", "m2"},
		`unexpected argument "m1"`:           {"status", "m1"},
		"no devetcd runs with -data":         {"status", "-data", t.TempDir()},
		`unexpected argument "paus"`:         {"paus", "m1"},
		"-nodes":                             {"pause", "-nodes", "m1"},
	} {
		p.refuses(t, want, args...)
	}
	p.refuses(t, `no member "m1 kill m1"`, "pause", "m1\nkill m1")
	if !answers(p.endpoints[0]) {
		t.Error("a line in a name was a command")
	}
	p.stop(t, os.Interrupt)
	p.refuses(t, "no devetcd is running", "pause", "m1")
}

func TestDevetcd_ControlSocketIsPrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // more than the name of a socket may have
	p := start(t, "-data", dir)
	info, err := os.Stat(filepath.Join(dir, socketName))
	must(t, err)
	if info.Mode() != os.ModeSocket|0o600 {
		t.Error(info.Mode())
	}
	p.refuses(t, "no devetcd is running", "status") // it is not in the temporary directory
	out, err := p.send(t, "status", "-data", dir)
	if err != nil || !strings.Contains(out, p.endpoints[0]) {
		t.Errorf("%v: %s", err, out)
	}
	p.stop(t, os.Interrupt)
	if _, err := os.Stat(filepath.Join(dir, socketName)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	p.refuses(t, "no devetcd runs with -data", "status", "-data", dir)
}

func TestDevetcd_ReplacesSocketOfKilledOne(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "-data", dir)
	must(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
	gone(t, p.endpoints[0])
	if _, err := os.Stat(filepath.Join(dir, socketName)); err != nil {
		t.Fatal(err)
	}
	p.refuses(t, "no devetcd runs with -data", "status", "-data", dir)
	p = start(t, "-data", dir)
	if out, err := p.send(t, "status", "-data", dir); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	p.stop(t, os.Interrupt)
}

func TestDevetcd_AsksWhichOneIfSeveralRun(t *testing.T) {
	t.Parallel()
	p := start(t)
	other := devetcd(t)
	other.Env = append(other.Env, "TMPDIR="+tmpdir(t, p.cmd))
	q := startCommand(t, other)
	p.refuses(t, "2 devetcds are running: name one with -data: ", "pause", "m1")
	for _, dir := range glob(t, tmpdir(t, p.cmd)) {
		if out, err := p.send(t, "status", "-data", dir); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	q.stop(t, os.Interrupt)
	p.sends(t, `m1 \(pid \d+\) is paused`, "pause", "m1")
	p.stop(t, os.Interrupt)
}
