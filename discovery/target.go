package discovery

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/resolver"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// parseTarget takes "etcd:///service?version=v2&zone=a&tag=x&prefer=a&atleast=2" apart. "etcd:service" is the same as
// "etcd:///service".
func parseTarget(t resolver.Target) (service string, o []PlaceOption, err error) {
	service = strings.TrimPrefix(t.URL.Path, "/")
	if service == "" {
		service = t.URL.Opaque
	}
	if t.URL.Host != "" {
		return "", nil, invalid("target %s names a host: did you mean %s", errs.Quote(t.String()), errs.Quote(Scheme+":///"+t.URL.Host+t.URL.Path))
	}
	if err := segment("service", service); err != nil {
		return "", nil, err
	}
	query, err := url.ParseQuery(t.URL.RawQuery)
	if err != nil {
		return "", nil, invalid("target %s: %w", errs.Quote(t.String()), err)
	}
	if o, err = parseQuery(query); err != nil {
		return "", nil, fmt.Errorf("target %s: %w", errs.Quote(t.String()), err)
	}
	return service, o, nil
}

// parseQuery reads what the target selects.
func parseQuery(query url.Values) ([]PlaceOption, error) {
	var o []PlaceOption
	for key, values := range query {
		for _, v := range values {
			switch key {
			case "version":
				o = append(o, OnlyVersion(v))
			case "zone":
				o = append(o, OnlyZone(v))
			case "tag":
				o = append(o, OnlyTag(v))
			case "prefer":
				n, err := strconv.Atoi("0" + query.Get("atleast"))
				if err != nil {
					return nil, invalid("atleast=%s is not a number", strconv.Quote(query.Get("atleast")))
				}
				o = append(o, PreferZone(v, n))
			case "atleast":
			default:
				return nil, invalid("%s is none of version, zone, tag, prefer and atleast", strconv.Quote(key))
			}
		}
	}
	return o, nil
}
