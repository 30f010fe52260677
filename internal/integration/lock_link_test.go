package integration_test

import (
	"sync"
	"testing"
	"time"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// link is the network between one client and all members.
type link []*etcdtest.Proxy

func newLink(t *testing.T, c *etcdtest.Cluster) (l link) {
	t.Helper()
	for _, m := range c.Members {
		l = append(l, m.Proxy(t))
	}
	return l
}

func (l link) endpoints() (all []string) {
	for _, p := range l {
		all = append(all, p.Endpoint())
	}
	return all
}

func (l link) each(f func(*etcdtest.Proxy)) {
	for _, p := range l {
		f(p)
	}
}

// The ways in which a client's link dies.
func cutOff(p *etcdtest.Proxy) {
	p.Refuse()
	p.Cut()
}
func swallow(p *etcdtest.Proxy)     { p.Blackhole(true, true) }
func swallowDown(p *etcdtest.Proxy) { p.Blackhole(false, true) }

// cutting cuts the connections of a link, again and again, until it is stopped.
func (l link) cutting(t *testing.T, every time.Duration) (stop func()) {
	t.Helper()
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.each((*etcdtest.Proxy).Cut)
			case <-over:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(over)
		<-ended
	})
}
