package etcdtest

import (
	"time"

	"github.com/etcdkit/etcdkit"
	harness "github.com/etcdkit/etcdkit/internal/etcdtest"
)

// Proxy is the network between clients and a [Server]: a TCP proxy on a loopback port whose faults
// a test controls. It works without faults until one is set. Its methods may be called
// concurrently.
type Proxy struct {
	harness *harness.Proxy
}

// Proxy starts a proxy in front of the server. Each call starts another one, so that clients can
// have different networks. It ends with the test that started the server.
func (s *Server) Proxy() *Proxy {
	s.tb.Helper()
	return &Proxy{harness: s.harness.Proxy(s.tb)}
}

// Config returns the configuration of a client that connects through the proxy. See
// [Server.Config].
func (p *Proxy) Config() etcdkit.Config { return configOf(p.harness.Endpoint()) }

// Cut closes all connections at once with a reset. Bytes on their way are lost. Clients may connect
// again: to keep them off, call [Proxy.Refuse] before.
func (p *Proxy) Cut() { p.harness.Cut() }

// Blackhole drops everything in both directions without closing a connection, as a network does
// that loses all packets. Nothing passes after Blackhole returns. Connections on which something
// was dropped are closed by [Proxy.Heal].
func (p *Proxy) Blackhole() { p.harness.Blackhole(true, true) }

// Delay delays everything that arrives from now on by d in each direction. A request and its
// response together take 2d longer. Bandwidth is not limited.
func (p *Proxy) Delay(d time.Duration) { p.harness.Delay(d) }

// Refuse refuses new connections, as a host does on which no server runs. Open connections stay.
func (p *Proxy) Refuse() { p.harness.Refuse() }

// Heal ends all faults.
func (p *Proxy) Heal() { p.harness.Heal() }
