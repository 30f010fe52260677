package etcdtest_test

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// onMortalThread calls f, in a goroutine that is begun with it, on a thread that ends with that
// goroutine. The main thread never ends, so it is kept busy if it comes up.
func onMortalThread(f func()) {
	runtime.LockOSThread() // for good: that is what ends the thread
	if syscall.Gettid() != syscall.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onMortalThread(f)
	}()
	<-done
}

// The system kills a child when the thread that started it ends, not the process.
func TestProcess_ServerSurvivesItsThread(t *testing.T) {
	t.Parallel()
	type started struct {
		srv    *etcdtest.Server
		thread string
	}
	result := make(chan started)
	go onMortalThread(func() {
		srv := etcdtest.Start(t)
		result <- started{srv, fmt.Sprintf("/proc/self/task/%d", syscall.Gettid())}
	})
	s := <-result
	require.Eventually(t, func() bool {
		_, err := os.Stat(s.thread)
		return os.IsNotExist(err)
	}, 10*time.Second, time.Millisecond)

	put(t, s.srv.Client(t), "key")
	assert.True(t, s.srv.Running())
}
