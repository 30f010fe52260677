package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// childEnv names what a process of a test is given to do: one of the roles below, and the endpoints
// of its etcd.
const childEnv = "ETCDKIT_TEST_CHILD"

// childProcess is a process that uses the library on behalf of a test, which can do to it what
// happens to processes.
type childProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // what it says; closed when it has ended
}

// newChild starts this test binary in a role. It ends when its input does, or the test.
func newChild(t *testing.T, role string, endpoints []string) *childProcess {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	c := &childProcess{t: t, lines: make(chan string, 1024)}
	c.cmd = exec.CommandContext(t.Context(), exe, "-test.run=^TestLock_Child$", "-test.v")
	c.cmd.Env = append(os.Environ(), childEnv+"="+role+" "+strings.Join(endpoints, ","))
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	go c.read(out)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		for range c.lines { // to its end
		}
		_ = c.cmd.Wait()
	})
	return c
}

const says = "child says: " // before each line that is for the test

func (c *childProcess) read(out io.Reader) {
	defer close(c.lines)
	for s := bufio.NewScanner(out); s.Scan(); {
		if line, ok := strings.CutPrefix(s.Text(), says); ok {
			c.lines <- line
		} else if strings.Contains(s.Text(), "FAIL") || strings.Contains(s.Text(), "Error") || strings.Contains(s.Text(), "Messages") {
			assert.Fail(c.t, "a child failed", s.Text())
		}
	}
}

// tell gives it a line to read.
func (c *childProcess) tell(line string) {
	c.t.Helper()
	_, err := io.WriteString(c.in, line+"\n")
	require.NoError(c.t, err)
}

// signal does to it what a signal does.
func (c *childProcess) signal(s syscall.Signal) {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Process.Signal(s))
}

// say tells the test that has started this process something.
func say(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stdout, says+format+"\n", args...)
}

// TestLock_Child runs in the processes that other tests start.
func TestLock_Child(t *testing.T) { //nolint:paralleltest // a process of its own
	role, endpoints, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		t.Skip("not a process of another test")
	}
	orders := bufio.NewScanner(os.Stdin)
	switch eps := strings.Split(endpoints, ","); role {
	case "mutex", "election":
		contendByOrder(t, role, eps, orders)
	case "writer":
		writeUntilStopped(t, eps, orders)
	case "storm":
		stormProcess(t, endpoints, orders)
	default:
		t.Fatalf("no such role: %s", role)
	}
}
