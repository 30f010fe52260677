package etcdkit

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/etcdkit/etcdkit/internal/errs"
)

const defaultPort = "2379"

// endpoint is a validated address of etcd.
type endpoint struct {
	scheme string // "", http, https, unix, unixs
	addr   string // host:port, or what follows the scheme of a unix socket, including slashes
}

// String formats the endpoint as client/v3 expects it.
func (e endpoint) String() string {
	switch e.scheme {
	case "":
		return e.addr
	case "unix", "unixs":
		return e.scheme + ":" + e.addr
	}
	return e.scheme + "://" + e.addr
}

func (e endpoint) socket() bool { return e.scheme == "unix" || e.scheme == "unixs" }

// secure reports whether the scheme requires TLS, plain whether it excludes TLS. Otherwise the
// configuration decides.
func (e endpoint) secure() bool { return e.scheme == "https" || e.scheme == "unixs" }
func (e endpoint) plain() bool  { return e.scheme == "http" }

// local reports whether traffic to e never leaves the machine.
func (e endpoint) local() bool {
	if e.socket() {
		return true
	}
	host, _, err := net.SplitHostPort(e.addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// parseEndpoint parses one address. Its errors do not quote it.
func parseEndpoint(s string) (endpoint, error) {
	if s == "" {
		return endpoint{}, errors.New("is empty")
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return endpoint{}, errors.New("holds a control character")
	}
	for _, scheme := range []string{"unix", "unixs"} {
		if rest, ok := strings.CutPrefix(s, scheme+":"); ok {
			if strings.Trim(rest, "/") == "" {
				return endpoint{}, errors.New("has no path of a socket")
			}
			return endpoint{scheme: scheme, addr: rest}, nil
		}
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	}
	scheme = strings.ToLower(scheme)
	if found && scheme != "http" && scheme != "https" {
		return endpoint{}, errors.New("has a scheme other than http, https, unix or unixs")
	}
	addr, err := parseAddress(strings.TrimSuffix(rest, "/"))
	return endpoint{scheme: scheme, addr: addr}, err
}

// parseAddress parses "host[:port]" and adds the default port.
func parseAddress(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("has no host")
	case strings.Contains(s, "@"):
		return "", errors.New("holds a user; use username and password")
	case strings.ContainsAny(s, "/?#"):
		return "", errors.New("has a path, query or fragment")
	}
	host, port, err := splitPort(s)
	if err != nil {
		return "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '+' {
		return "", errors.New("has no port between 1 and 65535")
	}
	if err := checkHost(host); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// splitPort splits "host:port", "host", "[ipv6]:port" and "[ipv6]".
func splitPort(s string) (host, port string, err error) {
	bracketed := strings.HasPrefix(s, "[")
	switch {
	case bracketed && strings.HasSuffix(s, "]"), !bracketed && !strings.Contains(s, ":"):
		host, port = strings.Trim(s, "[]"), defaultPort
	case !bracketed && strings.Count(s, ":") > 1:
		return "", "", errors.New("is not host:port (an IPv6 address needs brackets)")
	default:
		if host, port, err = net.SplitHostPort(s); err != nil || port == "" {
			return "", "", errors.New("is not host:port")
		}
	}
	if ip, perr := netip.ParseAddr(host); bracketed && (perr != nil || !ip.Is6()) {
		return "", "", errors.New("has brackets around something else than an IPv6 address")
	}
	return host, port, nil
}

// checkHost accepts IP addresses and host names.
func checkHost(host string) error {
	if host == "" {
		return errors.New("has no host")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return errors.New("has an IPv6 zone, which the client below cannot use")
		}
		return nil
	}
	if strings.Trim(host[strings.LastIndexByte(host, '.')+1:], "0123456789") == "" {
		return errors.New("has a malformed IP address")
	}
	odd := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '.' && r != '_'
	}
	if strings.ContainsFunc(host, odd) {
		return errors.New("has a host name with illegal characters")
	}
	return nil
}

// showEndpoint quotes an invalid address for an error, without anything that could be a password or
// a token.
func showEndpoint(s string) string {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = redacted + rest[i:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i+1] + redacted
	}
	return errs.Quote(scheme + rest)
}

// parseEndpoints parses addresses and checks that their schemes agree. Duplicates are dropped.
func parseEndpoints(list []string, bad *complaints) []endpoint {
	if len(list) == 0 {
		bad.add("the list of endpoints is empty")
	}
	var out []endpoint
	var secure, plain string
	for _, s := range list {
		e, err := parseEndpoint(s)
		if err != nil {
			bad.add("endpoint %s %v", showEndpoint(s), err)
			continue
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
		switch {
		case e.secure():
			secure = e.String()
		case e.plain():
			plain = e.String()
		}
	}
	if secure != "" && plain != "" {
		bad.add("endpoints %s and %s have contradicting schemes: the first one's would be used for all", secure, plain)
	}
	return out
}
