package lease_test

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
)

// labelled counts the goroutines of the caller's synctest bubble.
func labelled(t *testing.T) int {
	t.Helper()
	buf := make([]byte, 1<<22)
	buf = buf[:runtime.Stack(buf, true)]
	first, _, _ := strings.Cut(string(buf), "\n")
	_, bubble, ok := strings.Cut(first, "synctest bubble ")
	if !ok {
		t.Fatalf("not in a bubble: %s", first)
	}
	bubble = strings.TrimRight(bubble, "]:")
	n := 0
	for part := range bytes.SplitSeq(buf, []byte("\n\n")) {
		head, _, _ := strings.Cut(string(part), "\n")
		if _, at, ok := strings.Cut(head, "synctest bubble "); ok && strings.TrimRight(at, "]:") == bubble {
			n++
		}
	}
	return n
}
