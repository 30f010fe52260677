package discovery

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/resolver"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// parseTarget parses "etcd:///service?version=v2&zone=a&tag=x&prefer=a&atleast=2". "etcd:service"
// is equivalent to "etcd:///service".
func parseTarget(t resolver.Target) (service string, o []PlaceOption, err error) {
	service = strings.TrimPrefix(t.URL.Path, "/")
	if service == "" {
		service = t.URL.Opaque
	}
	if t.URL.Host != "" {
		return "", nil, errs.Invalidf("target %s names a host: did you mean %s", errs.Quote(t.String()), errs.Quote(Scheme+":///"+t.URL.Host+t.URL.Path))
	}
	if err := checkSegment("service", service); err != nil {
		return "", nil, err
	}
	if t.URL.Fragment != "" {
		return "", nil, errs.Invalidf("target %s has a fragment", errs.Quote(t.String()))
	}
	query, err := url.ParseQuery(t.URL.RawQuery)
	if err != nil {
		return "", nil, errs.Invalidf("target %s: %w", errs.Quote(t.String()), err)
	}
	if o, err = parseQuery(query); err != nil {
		return "", nil, fmt.Errorf("target %s: %w", errs.Quote(t.String()), err)
	}
	return service, o, nil
}

// parseQuery returns the options given by a target's parameters. Only tag may appear several times:
// an instance must have all tags.
func parseQuery(query url.Values) ([]PlaceOption, error) {
	var o []PlaceOption
	for key, values := range query {
		if len(values) > 1 && key != "tag" {
			return nil, errs.Invalidf("parameter %s appears %d times", strconv.Quote(key), len(values))
		}
		switch key {
		case "version":
			o = append(o, OnlyVersion(values[0]))
		case "zone":
			o = append(o, OnlyZone(values[0]))
		case "tag":
			for _, tag := range values {
				o = append(o, OnlyTag(tag))
			}
		case "prefer":
			atLeast, err := parseAtLeast(query)
			if err != nil {
				return nil, err
			}
			o = append(o, PreferZone(values[0], atLeast))
		case "atleast":
			if query.Get("prefer") == "" {
				return nil, errs.Invalidf("parameter atleast needs prefer, the zone that it applies to")
			}
		default:
			return nil, errs.Invalidf("%s is none of version, zone, tag, prefer and atleast", strconv.Quote(key))
		}
	}
	return o, nil
}

// parseAtLeast returns the minimum size of the preferred zone, 1 by default.
func parseAtLeast(query url.Values) (int, error) {
	if !query.Has("atleast") {
		return 1, nil
	}
	n, err := strconv.Atoi(query.Get("atleast"))
	if err != nil || n < 1 {
		return 0, errs.Invalidf("atleast=%s is not a positive number", strconv.Quote(query.Get("atleast")))
	}
	return n, nil
}
