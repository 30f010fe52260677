package main

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// route is a path with its methods. A {name} in the pattern matches one segment. If more is set,
// the last {name} matches all remaining segments, at least one.
type route struct {
	pattern string
	more    bool
	slash   bool // the path may end in a slash
	public  bool // needs no token and no slot
	methods map[string]endpoint
}

// endpoint is one method of a route.
type endpoint struct {
	query      []string // known parameters
	conditions []string // supported conditional headers
	body       bool     // takes a body
	serve      func(r *request) (response, error)
}

// table returns all routes. The first one that matches wins, so that a path which begins with
// "prefix" or "cas" does not name a key.
func (s *service) table() []route {
	kv := func(query ...string) map[string]endpoint {
		return map[string]endpoint{
			http.MethodGet:    {serve: s.getKey, query: append([]string{"cached", "metadata"}, query...)},
			http.MethodPut:    {serve: s.putKey, body: true, query: query, conditions: []string{ifMatch, ifNoneMatch}},
			http.MethodDelete: {serve: s.deleteKey, query: query, conditions: []string{ifMatch}},
		}
	}
	cas := func(query ...string) map[string]endpoint {
		return map[string]endpoint{http.MethodPost: {serve: s.compareAndSwap, body: true, query: query}}
	}
	list := func(query ...string) map[string]endpoint {
		return map[string]endpoint{
			http.MethodGet: {serve: s.listPrefix, query: append([]string{"metadata", "limit", "cursor"}, query...)},
		}
	}
	get := func(f func(r *request) (response, error)) map[string]endpoint {
		return map[string]endpoint{http.MethodGet: {serve: f}}
	}
	return []route{
		{pattern: "/api/etcd/kv/prefix", slash: true, methods: list("key")},
		{pattern: "/api/etcd/kv/prefix/{key}", more: true, slash: true, methods: list()},
		{pattern: "/api/etcd/kv/cas", methods: cas("key")},
		{pattern: "/api/etcd/kv/cas/{key}", more: true, methods: cas()},
		{pattern: "/api/etcd/kv", methods: kv("key")},
		{pattern: "/api/etcd/kv/{key}", more: true, methods: kv()},
		{pattern: "/api/etcd/services", methods: get(s.listServices)},
		{pattern: "/api/etcd/services/{service}/instances", methods: get(s.listInstances)},
		{pattern: "/api/etcd/services/{service}/instances/{id}", methods: map[string]endpoint{
			http.MethodPost:   {serve: s.register, body: true},
			http.MethodDelete: {serve: s.deregister},
		}},
		{pattern: "/api/etcd/info", methods: get(s.info)},
		{pattern: "/api/etcd/health", public: true, methods: get(s.health)},
		{pattern: "/api/etcd/health/cluster", methods: get(s.cluster)},
		{pattern: "/metrics", methods: get(s.exposition)},
		{pattern: "/openapi.yaml", methods: get(s.description)},
	}
}

// match returns the route of a path and the values of its {name}s, or nil.
func (s *service) match(segments []string) (*route, map[string]string) {
	for i := range s.routes {
		if params, ok := s.routes[i].match(segments); ok {
			return &s.routes[i], params
		}
	}
	return nil, nil
}

func (r *route) match(segments []string) (params map[string]string, ok bool) {
	pattern := strings.Split(r.pattern[1:], "/")
	if len(segments) < len(pattern) || len(segments) > len(pattern) && !r.more {
		return nil, false
	}
	params = map[string]string{}
	for i, want := range pattern {
		name, isParam := strings.CutPrefix(want, "{")
		name = strings.TrimSuffix(name, "}")
		switch {
		case !isParam && want != segments[i]:
			return nil, false
		case isParam && r.more && i == len(pattern)-1:
			params[name] = strings.Join(segments[i:], "/")
		case isParam:
			params[name] = segments[i]
		}
	}
	return params, true
}

// endpoint returns the endpoint of a method. HEAD is GET; net/http omits the body.
func (r *route) endpoint(method string) (endpoint, bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	e, ok := r.methods[method]
	return e, ok
}

// allow returns the header of that name.
func (r *route) allow() string {
	all := slices.Collect(maps.Keys(r.methods))
	if _, ok := r.methods[http.MethodGet]; ok {
		all = append(all, http.MethodHead)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
