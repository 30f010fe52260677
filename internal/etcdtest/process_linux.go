package etcdtest

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"
)

// dieWithParent makes the system kill the child when the thread that starts it ends.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// waitStopped returns when no thread of a process that was sent SIGSTOP runs any more: the signal
// is delivered asynchronously.
func waitStopped(pid int) error {
	for range 1000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return err
		}
		// The state follows the name, which is in parentheses and may hold any byte.
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && bytes.HasPrefix(stat[i:], []byte(") T")) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("etcdtest: process %d does not stop", pid)
}

// memoryDir is where files lie in memory, or "" when there is no room for servers' data.
func memoryDir() string {
	const (
		dir  = "/dev/shm"
		room = 2 << 30 // a fresh member takes 123 MiB, a package starts about a dozen
	)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < room {
		return ""
	}
	return dir
}
