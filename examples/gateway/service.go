package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/kv"
)

// service is the gateway: an http.Handler over a client of etcdkit.
type service struct {
	set   settings.Settings
	log   *slog.Logger
	token *token // nil if requests need none

	client        *etcdkit.Client
	cached        *cache.Cache[[]byte] // nil if the cache or watches are off
	values        kv.Typed[[]byte]     // writes, which a cache must see first
	registry      *discovery.Registry
	registrations *registrations
	views         *views
	ready         http.Handler

	routes    []route
	slots     chan struct{} // one for each request in progress, until its answer is written
	receiving chan struct{} // one for each body that is arriving
	listed    atomic.Int64  // bytes of all pages in memory
	metrics   *metrics
}

// newService returns a gateway over client, which it owns from then on. ctx bounds the call only.
func newService(
	ctx context.Context, client *etcdkit.Client, set settings.Settings, log *slog.Logger,
) (*service, error) {
	concurrent := set.Gateway.Limits.Concurrent
	s := &service{
		set: set, log: log, client: client, ready: client.ReadyHandler(),
		values: kv.NewTyped(client.KV(), "", kv.Bytes()),
		slots:  make(chan struct{}, concurrent), receiving: make(chan struct{}, concurrent),
	}
	var err error
	if s.token, err = readToken(set.Gateway.TokenFile); err != nil {
		return nil, err
	}
	if client.KV().Dir() == "" {
		log.WarnContext(ctx, "no namespace is configured: all keys of etcd can be read and written")
	}
	if set.Watch.Enabled && set.Cache.Enabled {
		c := set.Cache
		s.cached, err = cache.Open(ctx, client, "", kv.Bytes(), cache.WithLogger(log),
			cache.WithTTL(time.Duration(c.TTL)), cache.WithMaxEntries(c.MaxEntries),
			cache.WithMaxStaleness(time.Duration(c.MaxStaleness)))
		if err != nil {
			return nil, err
		}
		s.values = s.cached.Store()
	}
	ttl := time.Duration(set.Gateway.RegistrationTTL)
	s.registry, err = discovery.New(client, discovery.WithTTL(ttl), discovery.WithLogger(log))
	if err != nil {
		return nil, err
	}
	s.registrations = newRegistrations(s.registry, client.KV(), log, ttl, set.Gateway.Limits.Registrations)
	s.views = newViews(s.registry, set.Watch)
	s.routes = s.table()
	s.metrics = newMetrics(s)
	return s, nil
}

// close closes the watches, then the registrations, then the client. No request may be in progress.
func (s *service) close(ctx context.Context) error {
	s.views.close()
	var err error
	if s.cached != nil {
		err = s.cached.Close()
	}
	s.log.InfoContext(ctx, "watches closed", "left", s.client.Watcher().Active())
	s.registrations.close()
	err = errors.Join(err, s.registry.Close())
	s.log.InfoContext(ctx, "registrations closed", "left", s.client.Leases().Stats().Keys)
	err = errors.Join(err, s.client.Close())
	s.log.InfoContext(ctx, "client closed")
	return err
}
