package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// journalLine is something that a process of the storm did or saw. Calls have two lines, of which
// the first says only what was asked, so that the calls of a killed process are known.
type journalLine struct {
	Kind    string
	ID      int64  `json:",omitempty"` // joins the two lines of a call
	Ended   bool   `json:",omitempty"` // it is the second of them
	Name    string `json:",omitempty"` // of the lock, the dir or the key
	Who     string `json:",omitempty"` // what the call wrote
	Call    int64  `json:",omitempty"`
	Return  int64  `json:",omitempty"`
	Rev     int64  `json:",omitempty"` // a revision or a token
	Count   int    `json:",omitempty"`
	Unknown bool   `json:",omitempty"`
	Lost    bool   `json:",omitempty"`
	Failed  string `json:",omitempty"` // the error of a call that told nothing

	Ask   *ask        `json:",omitempty"`
	Told  *told       `json:",omitempty"`
	Move  *move       `json:",omitempty"`
	Batch *stormBatch `json:",omitempty"`
	Read  *stormRead  `json:",omitempty"`
	Bank  *bankTx     `json:",omitempty"`
	Many  []string    `json:",omitempty"`
}

// journal is the record of one process, in a file that outlives it.
type journal struct {
	start time.Time // of the storm

	mu   sync.Mutex
	file *os.File
	ids  int64
}

// monotonic is the time on a clock that all processes share, in nanoseconds.
func monotonic(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return now.Nano()
}

// newJournal begins a journal at path. The storm began at base of the shared clock.
func newJournal(t *testing.T, path string, base int64) *journal {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, file.Close()) })
	return &journal{start: startOf(t, base), file: file}
}

// startOf returns the time that was base on the clock of [monotonic]. The process may be preempted
// between the two readings, so the shortest of some attempts counts.
func startOf(t *testing.T, base int64) (start time.Time) {
	t.Helper()
	const attempts = 20
	shortest := time.Duration(math.MaxInt64)
	for range attempts {
		before := time.Now()
		now := monotonic(t)
		if took := time.Since(before); took < shortest {
			shortest, start = took, before.Add(-time.Duration(now-base))
		}
	}
	return start
}

func (j *journal) at(when time.Time) int64 {
	if j == nil {
		return 0
	}
	return int64(when.Sub(j.start))
}

func (j *journal) clock() int64 { return j.at(time.Now()) }

// write writes a line. Like all methods it does nothing if j is nil.
func (j *journal) write(line journalLine) {
	if j == nil {
		return
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // all fields can be marshaled
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.file.Write(append(text, '\n'))
}

// begin writes the first line of a call, and returns it for the second.
func (j *journal) begin(line journalLine) journalLine {
	if j == nil {
		return line
	}
	j.mu.Lock()
	j.ids++
	line.ID = j.ids
	j.mu.Unlock()
	j.write(line)
	return line
}

// end writes the second line of a call.
func (j *journal) end(line journalLine) {
	line.Ended = true
	j.write(line)
}

// recordStalls writes a line for each time in which the process could not run, because it was
// stopped or got no CPU. It does so until stop is called.
func (j *journal) recordStalls() (stop func()) {
	const interval, threshold = 5 * time.Millisecond, 25 * time.Millisecond
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for due := time.Now().Add(interval); ; due = time.Now().Add(interval) {
			select {
			case <-tick.C:
			case <-quit:
				return
			}
			if now := time.Now(); now.Sub(due) > threshold {
				j.write(journalLine{Kind: "stall", Call: j.at(due), Return: j.at(now)})
			}
		}
	})
	return func() {
		close(quit)
		wg.Wait()
	}
}

// readJournal returns the lines of a journal: of calls that have ended only the second, in the
// order in which they ended, and at the end the calls that have not. The last line of a killed
// process may be incomplete.
func readJournal(t *testing.T, path string) (lines []journalLine) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	open := map[int64]journalLine{}
	var order []int64
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var line journalLine
		if json.Unmarshal(scanner.Bytes(), &line) != nil {
			break
		}
		switch {
		case line.ID != 0 && !line.Ended:
			open[line.ID] = line
			order = append(order, line.ID)
			continue
		case line.ID != 0:
			delete(open, line.ID)
		}
		lines = append(lines, line)
	}
	require.NoError(t, scanner.Err())
	for _, id := range order {
		if line, ok := open[id]; ok {
			lines = append(lines, line)
		}
	}
	return lines
}
