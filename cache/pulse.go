package cache

import (
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/watch"
)

// pulse finds out as of when nothing is missing, without trusting the wall clock, which may be set.
//
// While a watch is live and well, what it has not told of cannot be older than its last answer. After a pause that is not
// so: the watch has heard from etcd again, and what it has missed is still on its way to the handler. Then etcd is asked
// where it stands, and when the handler has come that far, nothing is missing as of the time of the question.
type pulse struct {
	*feed

	status   func() watch.Status
	heard    time.Time
	reopened uint64
	paused   time.Duration // when a pause was last found, 0 when it has been made up for
	asking   atomic.Bool
	answered atomic.Int64 // when the last question was asked that the handler has come up with
}

// pauseLeast is more than there is between two answers of a watch that is well, which is asked once a second.
const pauseLeast = 1500 * time.Millisecond

// look moves the time as of which nothing is missing.
func (p *pulse) look() {
	now, st := p.now(), p.status()
	live := st.State == watch.StateLive
	if !live || st.Reopened != p.reopened || now-time.Duration(p.asOf.Load()) > pauseLeast && p.paused == 0 {
		p.paused, p.reopened = now, st.Reopened
	}
	switch asked := time.Duration(p.answered.Load()); {
	case !live:
	case p.paused == 0 && !st.Heard.Equal(p.heard): // else a clock that is set back would make it younger
		p.move(now - max(time.Since(st.Heard), 0)) // the handler may have taken its time
	case p.paused != 0 && asked > p.paused:
		p.paused = 0
		p.move(asked)
	case p.paused != 0:
		p.ask()
	}
	p.heard = st.Heard
}

func (p *pulse) move(asOf time.Duration) { p.asOf.Store(max(p.asOf.Load(), int64(asOf))) }

// ask finds out whether the handler has come to where etcd stands.
func (p *pulse) ask() {
	if p.asking.Swap(true) {
		return
	}
	p.spawn(func() {
		defer p.asking.Store(false)
		asked := p.now()
		if _, reached, err := p.gate.wait(p.ctx); err == nil && reached {
			p.answered.Store(int64(asked))
		}
	})
}
