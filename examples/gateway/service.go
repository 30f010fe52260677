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

// service is the gateway: an http.Handler, and the parts of etcdkit that it answers with.
type service struct {
	set   settings.Settings
	log   *slog.Logger
	token *token // nil: none is asked for

	client        *etcdkit.Client
	cached        *cache.Cache[[]byte] // nil where nothing is watched
	values        kv.Typed[[]byte]     // what writes go through, so that the cache sees them first
	registry      *discovery.Registry
	registrations *registrations
	views         *views
	ready         http.Handler

	routes    []route
	slots     chan struct{} // one for each request that is worked on, until it is answered
	receiving chan struct{} // one for each body that is on its way
	listed    atomic.Int64  // the bytes of all pages in memory
	metrics   *metrics
}

// newService makes a gateway over client, which belongs to it from then on. ctx bounds that alone.
func newService(ctx context.Context, client *etcdkit.Client, set settings.Settings, log *slog.Logger) (*service, error) {
	s := &service{
		set: set, log: log, client: client, ready: client.ReadyHandler(),
		values: kv.NewTyped(client.KV(), "", kv.Bytes()),
		slots:  make(chan struct{}, set.Gateway.Limits.Concurrent), receiving: make(chan struct{}, set.Gateway.Limits.Concurrent),
	}
	var err error
	if s.token, err = readToken(set.Gateway.TokenFile); err != nil {
		return nil, err
	}
	if client.KV().Dir() == "" {
		log.WarnContext(ctx, "no namespace is configured: all keys of etcd can be read and written here")
	}
	if set.Watch.Enabled {
		c := set.Cache
		s.cached, err = cache.Open(ctx, client, "", kv.Bytes(), cache.WithLogger(log), cache.WithTTL(time.Duration(c.TTL)),
			cache.WithMaxEntries(c.MaxEntries), cache.WithMaxStaleness(time.Duration(c.MaxStaleness)))
		if err != nil {
			return nil, err
		}
		s.values = s.cached.Store()
	}
	s.registry = discovery.New(client, discovery.WithTTL(time.Duration(set.Gateway.RegistrationTTL)), discovery.WithLogger(log))
	s.registrations = newRegistrations(s.registry, client.KV(), set.Gateway.Limits.Registrations)
	s.views = newViews(s.registry, set.Watch)
	s.routes = s.table()
	s.metrics = newMetrics(s)
	return s, nil
}

// close ends the watches, then the registrations, then the client. No request is under way any more.
func (s *service) close(ctx context.Context) error {
	s.views.close()
	var err error
	if s.cached != nil {
		err = s.cached.Close()
	}
	s.log.InfoContext(ctx, "watches are closed", "left", s.client.Watcher().Active())
	err = errors.Join(err, s.registry.Close())
	s.log.InfoContext(ctx, "registrations are closed", "left", s.client.Leases().Stats().Keys)
	err = errors.Join(err, s.client.Close())
	s.log.InfoContext(ctx, "the client is closed")
	return err
}
