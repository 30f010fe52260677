package integration_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stormLine is a line of the journal of a process.
type stormLine struct {
	journalLine

	by *stormChild
}

// finding is what one scenario of the storm has shown.
type finding struct {
	Scenario       string  `json:"scenario"`
	Runs           int     `json:"runs"`
	Violations     int     `json:"violations"`
	Excused        excuses `json:"excused,omitzero"`
	Peer           string  `json:"peer,omitempty"`
	PeerRuns       int     `json:"peerRuns,omitempty"`
	PeerViolations int     `json:"peerViolations,omitempty"`
	PeerExcused    excuses `json:"peerExcused,omitzero"`
}

// excuses counts what would be violations had the process not stalled for as long as it was late.
type excuses struct {
	Count   int           `json:"count"`
	Longest time.Duration `json:"longest"` // that a process was late
}

func (x *excuses) add(late time.Duration) { x.join(excuses{1, late}) }

func (x *excuses) join(y excuses) {
	x.Count += y.Count
	x.Longest = max(x.Longest, y.Longest)
}

// evidence is all journals of a storm, and the history of etcd.
type evidence struct {
	lines    map[string][]stormLine // by kind
	changes  []change
	start    time.Time
	resumed  []int64 // when leaders that were frozen continued
	findings []finding
}

// resumedBefore returns when, in the second before a time, a frozen leader continued, or that time
// if none did. It may then revoke leases that its successor has renewed: until
// it hears of the successor, it goes by its own clock, and etcd forwards its requests. What
// etcd-io/etcd#15247 has added prevents that only sometimes.
func (e *evidence) resumedBefore(moment int64) int64 {
	for _, at := range e.resumed { // in the order of time
		if at < moment && moment-at <= int64(time.Second) {
			return at
		}
	}
	return moment
}

// lastMoment returns when the process that had a hold from one time until another would have noticed
// its loss if it had not stalled, and if no lease had been revoked early. It notices a revocation
// within a second.
func (e *evidence) lastMoment(by *stormChild, from, until int64) int64 {
	return min(by.lastMoment(from, until), max(e.resumedBefore(until), from))
}

// check fails the test for each violation by the library.
func (r *stormRun) check(t *testing.T, changes []change) []finding {
	t.Helper()
	e := &evidence{lines: map[string][]stormLine{}, changes: changes, start: r.start, resumed: r.resumed}
	failures := map[string]int{}
	for _, p := range r.processes {
		for _, line := range readJournal(t, p.plan.Journal) {
			e.lines[line.Kind] = append(e.lines[line.Kind], stormLine{line, p})
			if line.Kind == "stall" {
				p.stalls = append(p.stalls, [2]int64{line.Call, line.Return})
			}
			if line.Failed != "" && !strings.HasPrefix(line.Name, "peer") {
				failures[line.Kind+": "+firstWords(line.Failed)]++
			}
		}
	}
	for _, text := range slices.Sorted(maps.Keys(failures)) {
		t.Logf("%d × %s", failures[text], text)
	}
	e.run(t, "reads and writes of single keys are linearizable", e.registers)
	e.run(t, "each increment of a counter happens once", e.counters)
	e.run(t, "transactions over several keys are strictly serializable", e.bank)
	e.run(t, "the history of a mutex and of the writes under its guard is that of a lock", func(t *testing.T, f *finding) {
		e.diaries(t, f, "m/", handed)
	})
	e.run(t, "likewise of an election", func(t *testing.T, f *finding) { e.diaries(t, f, "e/", released) })
	e.run(t, "no two processes hold a mutex", func(t *testing.T, f *finding) {
		f.Peer = "client/v3/concurrency.Mutex"
		e.stays(t, f, "mutex stay")
	})
	e.run(t, "no two processes lead", func(t *testing.T, f *finding) {
		f.Peer = "client/v3/concurrency.Election"
		e.stays(t, f, "election stay")
	})
	e.run(t, "a session ends before its lease", e.sessions)
	e.run(t, "a watch of the state shows each change, or the difference", e.stateWatches)
	e.run(t, "a watch of changes delivers each change once, in order", e.changeWatches)
	e.run(t, "caches serve nothing older than allowed", e.reads)
	e.run(t, "configuration goes forward and is valid", e.config)
	e.run(t, "a view of instances is never empty", e.views)
	if t.Failed() {
		r.keep(t)
	}
	return e.findings
}

// keep copies the journals and logs to where they outlive the test.
func (r *stormRun) keep(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcdkit-faults-") //nolint:usetesting // outlives the test
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(dir, os.DirFS(r.dir)))
	t.Logf("the journals and logs are in %s", dir)
}

// firstWords shortens an error to what many have in common.
func firstWords(text string) string {
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

// run checks one scenario. A failure that check does not count is one violation.
func (e *evidence) run(t *testing.T, scenario string, check func(t *testing.T, f *finding)) {
	t.Helper()
	f := finding{Scenario: scenario}
	ok := t.Run(scenario, func(t *testing.T) {
		check(t, &f)
		assert.Zero(t, f.Violations, "violations")
		assert.Positive(t, f.Runs, "runs")
	})
	if !ok {
		f.Violations = max(f.Violations, 1)
	}
	t.Logf("%+v", f)
	e.findings = append(e.findings, f)
}

// below returns the changes below a dir, with keys relative to it.
func below(changes []change, dir string) (out []change) {
	for _, ch := range changes {
		if key, ok := strings.CutPrefix(ch.key, dir); ok {
			ch.key = key
			out = append(out, ch)
		}
	}
	return out
}

// byName groups lines by their names.
func byName(lines []stormLine) map[string][]stormLine {
	out := map[string][]stormLine{}
	for _, line := range lines {
		out[line.Name] = append(out[line.Name], line)
	}
	return out
}

func (e *evidence) registers(t *testing.T, f *finding) {
	for dir, lines := range byName(e.lines["register"]) {
		h := newHistory(dir)
		for _, line := range lines {
			op := porcupine.Operation{Input: *line.Ask, Call: line.Call, Return: line.Return, Output: told{Is: unknown}}
			if line.Told != nil {
				op.Output = *line.Told
			}
			switch {
			case line.Failed != "" && line.Ask.Value != "":
				h.nothing = append(h.nothing, line.Ask.Value)
				continue
			case line.Failed != "", line.Told == nil && line.Ask.Op == "get":
				continue
			case op.Output.(told).Is == unknown:
				op.Return = math.MaxInt64
			}
			h.operations = append(h.operations, op)
		}
		f.Runs += len(h.operations)
		h.check(t, below(e.changes, dir))
	}
}

func (e *evidence) counters(t *testing.T, f *finding) {
	f.Peer = "client/v3, reading again after an error"
	count := func(dir string, lines []stormLine) (verdict, *counter) {
		c := newCounter()
		changes := below(e.changes, dir)
		happened := map[string]change{}
		for _, ch := range changes {
			_, id, err := parseCount(ch.value)
			require.NoError(t, err)
			happened[id] = ch
		}
		for _, line := range lines {
			op := porcupine.Operation{Input: counting{add: true}, Call: line.Call, Return: line.Return, Output: line.Count}
			switch {
			case line.Ended && line.Failed == "":
				c.told[line.Who] = change{value: formatCount(line.Count, line.Who), rev: line.Rev}
			case line.Ended && !line.Unknown:
				continue
			default: // its process was killed, or did not learn what became of it
				c.unknown = append(c.unknown, line.Who)
				ch, ok := happened[line.Who]
				if !ok {
					continue
				}
				n, _, err := parseCount(ch.value)
				require.NoError(t, err)
				op.Output, op.Return = n, max(ch.seen, op.Call)
			}
			c.history = append(c.history, op)
		}
		for _, line := range e.lines["counter read"] {
			if line.Name == dir {
				c.history = append(c.history, porcupine.Operation{Input: counting{}, Call: line.Call, Return: line.Return, Output: line.Count})
			}
		}
		v := c.judge(changes)
		v.Unasked = slices.DeleteFunc(v.Unasked, func(id string) bool { return slices.Contains(c.unknown, id) })
		if len(v.Unasked) == 0 {
			v.Unasked = nil // as in a verdict without any
		}
		return v, c
	}
	for dir, lines := range byName(e.lines["counter"]) {
		v, c := count(dir, lines)
		wrong := len(v.Twice) + len(v.Lost) + v.OutOfOrder
		if strings.HasPrefix(dir, "peer") {
			f.PeerRuns += len(c.told)
			f.PeerViolations += wrong
			continue
		}
		f.Runs += len(c.told)
		f.Violations += wrong + len(v.Unasked)
		assert.Equal(t, verdict{Acknowledged: v.Acknowledged, Unknown: v.Unknown, Final: v.Final, History: porcupine.Ok}, v, dir)
	}
}

// bank holds transfers and audits against the history of etcd, which is one order of all of them.
func (e *evidence) bank(t *testing.T, f *finding) {
	violation := func(format string, args ...any) {
		f.Violations++
		if f.Violations <= 10 {
			assert.Fail(t, fmt.Sprintf(format, args...))
		}
	}
	calls := map[string]stormLine{}
	for _, line := range e.lines["transfer"] {
		calls[line.Who] = line
		f.Runs++
	}
	state := map[string]string{}
	for i := range accounts {
		state[strconv.Itoa(i)] = formatCount(100, "begin")
	}
	at := map[string]int64{}                      // the revision of each transfer
	states := map[int64]map[string]string{0: nil} // by revision
	revs := []int64{}
	changes := below(e.changes, "bank/")
	for i := 0; i < len(changes); {
		rev := changes[i].rev
		before := maps.Clone(state)
		var id string
		for ; i < len(changes) && changes[i].rev == rev; i++ {
			state[changes[i].key] = changes[i].value
			_, id, _ = parseCount(changes[i].value)
		}
		states[rev] = maps.Clone(state)
		revs = append(revs, rev)
		sum := 0
		for _, v := range state {
			n, _, _ := parseCount(v)
			sum += n
		}
		if id != "begin" && sum != 100*accounts {
			violation("the accounts add up to %d at %d", sum, rev)
		}
		if at[id] != 0 && id != "begin" {
			violation("%s was transferred at %d and at %d", id, at[id], rev)
		}
		at[id] = rev
		if line := calls[id]; line.Bank != nil {
			for k, account := range line.Bank.Accounts {
				key := strconv.Itoa(account)
				if before[key] != line.Bank.Read[k] && line.Failed == "" || state[key] != line.Bank.Wrote[k] && line.Failed == "" {
					violation("%s has read %q and written %q, and etcd had %q and %q", id, line.Bank.Read[k], line.Bank.Wrote[k], before[key], state[key])
				}
			}
		}
	}
	type done struct{ call, ret, rev int64 }
	var all []done
	for id, line := range calls {
		switch {
		case line.Ended && line.Failed == "":
			if at[id] != line.Rev {
				violation("%s was acknowledged at %d and is in the history at %d", id, line.Rev, at[id])
			}
			all = append(all, done{line.Call, line.Return, line.Rev})
		case line.Ended && !line.Unknown && at[id] != 0:
			violation("%s failed without effect, and is in the history at %d: %s", id, at[id], line.Failed)
		}
	}
	for _, line := range e.lines["audit"] {
		f.Runs++
		i, ok := slices.BinarySearch(revs, line.Rev)
		if !ok {
			i--
		}
		if i < 0 {
			continue
		}
		want := states[revs[i]]
		var values []string
		for _, key := range slices.Sorted(maps.Keys(want)) {
			values = append(values, want[key])
		}
		if !slices.Equal(values, line.Many) {
			violation("at %d the accounts were %v, and were read as %v", line.Rev, values, line.Many)
		}
		all = append(all, done{line.Call, line.Return, line.Rev})
	}
	// What has begun after something was done must come after it in the order of revisions.
	byCall, byReturn := slices.Clone(all), slices.Clone(all)
	slices.SortFunc(byCall, func(a, b done) int { return cmp.Compare(a.call, b.call) })
	slices.SortFunc(byReturn, func(a, b done) int { return cmp.Compare(a.ret, b.ret) })
	var latest int64
	next := 0
	for _, d := range byCall {
		for ; next < len(byReturn) && byReturn[next].ret < d.call; next++ {
			latest = max(latest, byReturn[next].rev)
		}
		if d.rev < latest {
			violation("what began at %v took effect at %d, and something had at %d before", time.Duration(d.call), d.rev, latest)
		}
	}
}

// stormMove is a move of one of the histories.
type stormMove struct {
	name string
	move move
}

// diaries checks the histories of the locks, or elections, whose dirs begin with a prefix.
func (e *evidence) diaries(t *testing.T, f *finding, prefix, release string) {
	type key struct {
		name  string
		token int64
	}
	all := map[string]*diary{}
	of := func(name string) *diary {
		if all[name] == nil {
			all[name] = newDiary(name, release)
			all[name].tolerate = func(error) bool { return true }
		}
		return all[name]
	}
	each := func(kind string, f func(d *diary, line stormLine)) {
		for _, line := range e.lines[kind] {
			if strings.HasPrefix(line.Name, prefix) {
				f(of(line.Name), line)
			}
		}
	}
	begun, ended, releasing := map[key]stormLine{}, map[key]bool{}, map[key]int64{}
	each("move", func(_ *diary, line stormLine) {
		switch k := (key{line.Name, line.Move.Token}); line.Move.Kind {
		case granted:
			begun[k] = line
			f.Runs++
		case ceased, released, handed:
			ended[k] = true
		}
	})
	each("release", func(_ *diary, line stormLine) { releasing[key{line.Name, line.Rev}] = line.Call })
	noted := map[stormMove]bool{}
	each("move", func(d *diary, line stormLine) {
		noted[stormMove{line.Name, *line.Move}] = true
		op := porcupine.Operation{Input: *line.Move, Call: line.Call, Return: line.Return}
		if line.Move.Kind == ceased {
			// Had it not stalled, it would have been told earlier, but not before it was granted the
			// hold, which may be after the stall.
			op.Call = e.lastMoment(line.by, begun[key{line.Name, line.Move.Token}].Return, line.Call)
			next := line.Call // when the next was granted it, if that is earlier
			for k, other := range begun {
				if k.name == line.Name && k.token > line.Move.Token {
					next = min(next, other.Return)
				}
			}
			if op.Call <= next && next < line.Call {
				f.Excused.add(time.Duration(line.Call - next))
			}
			d.lost++
		}
		d.moves = append(d.moves, op)
	})
	for k, line := range begun {
		if ended[k] {
			continue
		}
		m := move{Kind: ceased, Token: k.token}
		from := cmp.Or(releasing[k], line.by.killed[0])
		if !assert.NotZero(t, line.by.killed[0], "%s holds %v for ever", line.by.plan.Name, k) {
			continue
		}
		of(k.name).moves = append(of(k.name).moves, porcupine.Operation{Input: m, Call: from, Return: line.by.killed[1]})
	}
	each("take", func(d *diary, line stormLine) {
		if line.Failed != "" || !line.Ended {
			d.failed[line.Who] = true
		} else {
			d.taken[line.Who] = line.Move.Token
		}
	})
	each("write", func(d *diary, line stormLine) {
		// A process may be killed after a write has succeeded and before it notes the move.
		if !line.Ended || line.Unknown || line.Failed == "" && !noted[stormMove{line.Name, *line.Move}] {
			d.open[line.Who] = porcupine.Operation{Input: *line.Move, Call: line.Call, Return: math.MaxInt64}
		}
	})
	each("leader", func(d *diary, line stormLine) { d.values[line.Rev] = line.Who })
	for name, d := range all {
		d.check(t, slices.DeleteFunc(below(e.changes, name), func(ch change) bool { return ch.key != counterKey }))
	}
}

// stays checks that the times in which processes relied on having something do not overlap, and
// counts those of the peer.
func (e *evidence) stays(t *testing.T, f *finding, kind string) {
	judge := func(kind string) findings {
		var log stays
		for _, line := range e.lines[kind] {
			told := line.Return
			if !line.Ended {
				told = line.by.killed[0]
			}
			at := func(clock int64) time.Time { return e.start.Add(time.Duration(clock)) }
			log.add(stay{
				name: line.Name, token: line.Rev, lost: line.Lost,
				from: at(line.Call), until: at(e.lastMoment(line.by, line.Call, told)), told: at(told),
			})
		}
		return log.judge()
	}
	ours, theirs := judge(kind), judge("peer "+kind)
	t.Logf("ours %+v, the peer's %+v", ours, theirs)
	f.Runs, f.Violations, f.Excused = ours.Stays, ours.Overlaps+ours.Regressions, ours.Excused
	f.PeerRuns, f.PeerViolations, f.PeerExcused = theirs.Stays, theirs.Overlaps, theirs.Excused
}

func (e *evidence) sessions(t *testing.T, f *finding) {
	deleted := map[string]int64{}
	for _, ch := range below(e.changes, "sess/") {
		if ch.deleted {
			deleted["sess/"+ch.key] = ch.seen
		}
	}
	lost := 0
	for _, line := range e.lines["session"] {
		f.Runs++
		if line.Lost {
			lost++
		}
		seen, ok := deleted[line.Name]
		switch late := time.Duration(line.Return - seen); {
		case !ok || late <= 0:
		case line.by.lastMoment(line.Call, line.Return) <= seen, e.resumedBefore(seen) < seen && late <= stormTTL/3+time.Second: // it renews every TTL/3
			f.Excused.add(late)
		default:
			f.Violations++
			assert.Fail(t, "a session outlived its lease", "%s by %v", line.Name, late)
		}
	}
	t.Logf("%d of %d sessions were lost", lost, f.Runs)
}

// dataHistory is the history of the keys that are watched.
type dataHistory struct {
	revs []int64
	at   map[int64][]change
}

func (e *evidence) data() dataHistory {
	d := dataHistory{at: map[int64][]change{}}
	for _, ch := range below(e.changes, "data/") {
		if d.at[ch.rev] == nil {
			d.revs = append(d.revs, ch.rev)
		}
		d.at[ch.rev] = append(d.at[ch.rev], ch)
	}
	return d
}

// after returns the first revision with a change after rev, 0 if there is none.
func (d dataHistory) after(rev int64) int64 {
	i, found := slices.BinarySearch(d.revs, rev)
	if found {
		i++
	}
	if i == len(d.revs) {
		return 0
	}
	return d.revs[i]
}

// live returns what is wrong with a batch of a revision, or "".
func (d dataHistory) live(b *stormBatch, last int64) string {
	if next := d.after(last); last != 0 && next != b.Rev {
		return fmt.Sprintf("%d was delivered after %d, where %d comes next", b.Rev, last, next)
	}
	want := d.at[b.Rev]
	if len(want) != len(b.Events) {
		return fmt.Sprintf("at %d %d changes were delivered, of %d", b.Rev, len(b.Events), len(want))
	}
	for i, ev := range b.Events {
		if w := want[i]; ev.Key != "data/"+w.key || ev.Deleted != w.deleted || !ev.Deleted && ev.Value != w.value {
			return fmt.Sprintf("at %d %+v was delivered as %+v", b.Rev, w, ev)
		}
	}
	return ""
}

// watches calls check with the batches of each watch of a kind.
func (e *evidence) watches(who string, check func(by *stormChild, batches []*stormBatch)) {
	all := map[*stormChild][]*stormBatch{}
	for _, line := range e.lines["watch"] {
		if line.Who == who && line.Batch != nil {
			all[line.by] = append(all[line.by], line.Batch)
		}
	}
	for by, batches := range all {
		check(by, batches)
	}
}

func (e *evidence) stateWatches(t *testing.T, f *finding) {
	d := e.data()
	resyncs := 0
	e.watches("state", func(by *stormChild, batches []*stormBatch) {
		got, want := map[string]string{}, map[string]string{}
		var last, upTo int64
		wrong := func(text string) {
			f.Violations++
			assert.Fail(t, text, by.plan.Name)
		}
		for _, b := range batches {
			f.Runs++
			switch b.Kind {
			case "live":
				if text := d.live(b, last); text != "" {
					wrong(text)
				}
			case "progress":
				if next := d.after(last); next != 0 && next <= b.Rev {
					wrong(fmt.Sprintf("progress to %d, and %d is missing after %d", b.Rev, next, last))
				}
			case "resync":
				resyncs++
			}
			for _, ev := range b.Events {
				if ev.Deleted {
					delete(got, ev.Key)
				} else {
					got[ev.Key] = ev.Value
				}
			}
			if b.More {
				continue
			}
			if b.Rev < last {
				wrong(fmt.Sprintf("%d was delivered after %d", b.Rev, last))
			}
			last = b.Rev
			for next := d.after(upTo); next != 0 && next <= last; next = d.after(upTo) {
				for _, ch := range d.at[next] {
					if ch.deleted {
						delete(want, "data/"+ch.key)
					} else {
						want["data/"+ch.key] = ch.value
					}
				}
				upTo = next
			}
			if !maps.Equal(want, got) {
				wrong(fmt.Sprintf("at %d the state is %v, and was delivered as %v", last, want, got))
				got = maps.Clone(want)
			}
		}
		if len(d.revs) > 0 && by.killed[0] == 0 && last < d.revs[len(d.revs)-1] {
			wrong(fmt.Sprintf("it ends at %d, and the history at %d", last, d.revs[len(d.revs)-1]))
		}
	})
	t.Logf("%d batches of resyncs", resyncs)
}

func (e *evidence) changeWatches(t *testing.T, f *finding) {
	f.Peer = "client/v3, watching again when the channel closes"
	d := e.data()
	compacted := 0
	e.watches("changes", func(by *stormChild, batches []*stormBatch) {
		var last int64
		for _, b := range batches {
			if b.Kind == "compacted" {
				compacted++
				last = b.Rev - 1
				continue
			}
			f.Runs++
			if b.Kind != "live" {
				continue
			}
			if text := d.live(b, last); text != "" {
				f.Violations++
				assert.Fail(t, text, by.plan.Name)
			}
			last = b.Rev
		}
	})
	peers := map[*stormChild][]int64{}
	for _, line := range e.lines["peer watch"] {
		peers[line.by] = append(peers[line.by], line.Rev)
	}
	for _, revs := range peers {
		f.PeerRuns += len(revs)
		slices.Sort(revs)
		distinct := slices.Compact(slices.Clone(revs))
		f.PeerViolations += len(revs) - len(distinct)
		for rev := revs[0]; rev != 0 && rev < revs[len(revs)-1]; rev = d.after(rev) {
			if _, ok := slices.BinarySearch(distinct, rev); !ok {
				f.PeerViolations++
			}
		}
	}
	t.Logf("compacted %d times", compacted)
}

func (e *evidence) reads(t *testing.T, f *finding) {
	// A member that is cut off does not know it for 3 to 5 s, and answers meanwhile that nothing is
	// new.
	const unawareFor = int64(6 * time.Second)
	histories := map[string][]change{}
	for _, ch := range below(e.changes, "data/") {
		histories[ch.key] = append(histories[ch.key], ch)
	}
	kinds := map[string]int{}
	for _, line := range e.lines["read"] {
		f.Runs++
		kinds[line.Name]++
		all := histories[line.Read.Key]
		floor := -1 // the oldest change that may be shown
		if line.Read.Bound >= 0 {
			before := line.Call
			if line.Read.Bound > 0 {
				before -= line.Read.Bound + unawareFor
			}
			floor = sort.Search(len(all), func(i int) bool { return all[i].seen > before }) - 1
		}
		floor = max(floor, sort.Search(len(all), func(i int) bool { return all[i].rev > line.Read.AtLeast })-1)
		ok := line.Read.Rev == 0 && floor < 0
		for i := max(floor, 0); i < len(all) && !ok; i++ {
			ch := all[i]
			ok = ch.deleted && line.Read.Rev == 0 || !ch.deleted && ch.rev == line.Read.Rev && ch.value == line.Read.Value
		}
		if !ok {
			f.Violations++
			oldest := change{}
			if floor >= 0 {
				oldest = all[floor]
			}
			assert.Fail(t, "an old or a wrong entry was served", "%s of %s: %+v, called at %v; not older than %+v",
				line.Name, line.by.plan.Name, *line.Read, time.Duration(line.Call), oldest)
		}
	}
	t.Log(kinds)
}

func (e *evidence) config(t *testing.T, f *finding) {
	valid := []int{0} // the default
	for _, ch := range below(e.changes, "cfg/") {
		if n, err := strconv.Atoi(ch.value); err == nil && n >= 0 && !ch.deleted {
			valid = append(valid, n)
		}
	}
	at := map[*stormChild]int{}
	for _, line := range e.lines["config"] {
		f.Runs++
		i := slices.Index(valid[at[line.by]:], line.Count)
		if i < 0 {
			f.Violations++
			assert.Fail(t, "a value came that is invalid, or older than another", "%s: %d", line.by.plan.Name, line.Count)
			continue
		}
		at[line.by] += i
	}
}

func (e *evidence) views(t *testing.T, f *finding) {
	filled := map[*stormChild]bool{}
	for _, line := range e.lines["view"] {
		f.Runs++
		if len(line.Many) == 0 && filled[line.by] {
			f.Violations++
			assert.Fail(t, "a view is empty", line.by.plan.Name)
		}
		filled[line.by] = filled[line.by] || len(line.Many) > 0
	}
}

// TestEvidence_StallsExcuseLateness has a process be told 100 ms late, at 1100 ms, that it has lost
// something.
func TestEvidence_StallsExcuseLateness(t *testing.T) {
	t.Parallel()
	const ms = int64(time.Millisecond)
	late := excuses{1, 100 * time.Millisecond}
	for name, tc := range map[string]struct {
		stalls  [][2]int64 // in milliseconds
		excused bool
		resumed []int64 // in milliseconds
	}{
		"a member that continued just before":      {nil, true, []int64{-9000, 990}},
		"a member that continued long before":      {nil, false, []int64{-9000, -1}},
		"a member that continued afterwards":       {nil, false, []int64{1001}},
		"no stall":                                 {nil, false, nil},
		"a stall that covers it":                   {[][2]int64{{1000, 1100}}, true, nil},
		"a stall from before, until just before":   {[][2]int64{{950, 1090}}, true, nil},
		"a stall that lasts on":                    {[][2]int64{{1000, 1500}}, true, nil},
		"two stalls":                               {[][2]int64{{970, 1030}, {1050, 1095}}, true, nil},
		"a stall that is too short":                {[][2]int64{{1001, 1100}}, false, nil},
		"two stalls that are too short":            {[][2]int64{{990, 1030}, {1050, 1095}}, false, nil},
		"a long stall that has ended before":       {[][2]int64{{400, 1040}}, false, nil},
		"a long stall, and a short one long after": {[][2]int64{{400, 970}, {1072, 1100}}, false, nil},
		"a stall afterwards":                       {[][2]int64{{1100, 1500}}, false, nil},
		"a stall before the process had it":        {[][2]int64{{-5000, 10}}, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			by := &stormChild{}
			for _, s := range tc.stalls {
				by.stalls = append(by.stalls, [2]int64{s[0] * ms, s[1] * ms})
			}
			e := &evidence{start: time.Now(), changes: []change{{key: "sess/a", deleted: true, seen: 1000 * ms}}}
			for _, at := range tc.resumed {
				e.resumed = append(e.resumed, at*ms)
			}
			stays := []stormLine{
				{journalLine{Name: "n", Rev: 5, Ended: true, Call: 10 * ms, Return: 1100 * ms}, by},
				{journalLine{Name: "n", Rev: 7, Ended: true, Call: 1000 * ms, Return: 2000 * ms}, &stormChild{}},
			}
			e.lines = map[string][]stormLine{
				"mutex stay": stays, "peer mutex stay": stays,
				"session": {{journalLine{Name: "sess/a", Call: 10 * ms, Return: 1100 * ms}, by}},
				"move": {
					{journalLine{Name: "m/", Move: &move{Kind: granted, Token: 5}, Call: 9 * ms, Return: 10 * ms}, by},
					{journalLine{Name: "m/", Move: &move{Kind: granted, Token: 7}, Call: 11 * ms, Return: 1000 * ms}, &stormChild{killed: [2]int64{2000 * ms, 2000 * ms}}},
					{journalLine{Name: "m/", Move: &move{Kind: ceased, Token: 5}, Call: 1100 * ms, Return: 1100 * ms}, by},
				},
			}
			var f finding
			e.stays(t, &f, "mutex stay")
			if !tc.excused {
				assert.Equal(t, finding{Runs: 2, Violations: 1, PeerRuns: 2, PeerViolations: 1}, f)
				return
			}
			assert.Equal(t, finding{Runs: 2, Excused: late, PeerRuns: 2, PeerExcused: late}, f)
			for _, check := range []func(t *testing.T, f *finding){
				e.sessions, func(t *testing.T, f *finding) { e.diaries(t, f, "m/", handed) },
			} {
				f = finding{}
				check(t, &f)
				assert.Equal(t, late, f.Excused)
			}
		})
	}
}

func TestEvidence_WriteOfKilledProcessIsCounted(t *testing.T) {
	t.Parallel()
	killed, other := &stormChild{killed: [2]int64{6, 7}}, &stormChild{}
	count := func(token int64, to int) *move { return &move{Kind: counted, Token: token, Count: to} }
	e := &evidence{
		lines: map[string][]stormLine{
			"move": {
				{journalLine{Name: "e/", Move: &move{Kind: granted, Token: 5}, Call: 1, Return: 2}, killed},
				{journalLine{Name: "e/", Move: &move{Kind: granted, Token: 7}, Call: 3, Return: 20}, other},
				{journalLine{Name: "e/", Move: count(7, 2), Call: 21, Return: 22}, other},
				{journalLine{Name: "e/", Move: &move{Kind: released, Token: 7}, Call: 23, Return: 24}, other},
			},
			"write": {
				{journalLine{Name: "e/", Who: "1 a", Move: count(5, 1), Call: 3, Return: 5, Ended: true}, killed},
				{journalLine{Name: "e/", Who: "2 b", Move: count(7, 2), Call: 21, Return: 22, Ended: true}, other},
			},
		},
		changes: []change{{key: "e/" + counterKey, value: "1 a", seen: 4}, {key: "e/" + counterKey, value: "2 b", seen: 22}},
	}
	e.diaries(t, &finding{}, "e/", released)
}

func TestEvidence_LossSoonAfterStallMayFollowAnotherHolder(t *testing.T) {
	t.Parallel()
	thawed, other := &stormChild{stalls: [][2]int64{{10, 20}}}, &stormChild{}
	e := &evidence{lines: map[string][]stormLine{"move": {
		{journalLine{Name: "e/", Move: &move{Kind: granted, Token: 5}, Call: 1, Return: 2}, other},
		{journalLine{Name: "e/", Move: &move{Kind: released, Token: 5}, Call: 15, Return: 16}, other},
		{journalLine{Name: "e/", Move: &move{Kind: granted, Token: 7}, Call: 3, Return: 21}, thawed},
		{journalLine{Name: "e/", Move: &move{Kind: ceased, Token: 7}, Call: 25, Return: 25}, thawed},
	}}}
	e.diaries(t, &finding{}, "e/", released)
}
