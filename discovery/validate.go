package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Limits of an instance.
const (
	// MaxWeight is the largest weight of an instance.
	MaxWeight = 1 << 16
	// MaxMetadata limits the total size in bytes of the keys and values of Metadata, and that of
	// Tags.
	MaxMetadata = 1 << 10

	maxAttributeBytes = 255 // host, scheme, version, zone
	maxPort           = 1<<16 - 1
)

// check returns an error that joins everything wrong with the instance.
func (i *Instance) check() error {
	size := 0
	for k, v := range i.Metadata {
		size += len(k) + len(v)
	}
	tags := 0
	for _, tag := range i.Tags {
		tags += len(tag)
	}
	validationErr := []error{
		checkSegment("service", i.Service), checkSegment("id", i.ID), i.checkAddr(), i.checkAttributes(),
		checkSize("metadata", size, MaxMetadata), checkSize("tags", tags, MaxMetadata),
	}
	if i.Weight < 0 || i.Weight > MaxWeight {
		validationErr = append(validationErr, errs.Invalidf("weight %d is not in 0 to %d", i.Weight, MaxWeight))
	}
	return errors.Join(validationErr...)
}

// checkSegment returns an error unless name is a valid single segment of a key.
func checkSegment(what, name string) error {
	if err := keyspace.Name(name); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf(`%s: %w: name %s contains a "/"`, what, errs.Invalid, errs.Quote(name))
	}
	return nil
}

func checkSize(what string, size, limit int) error {
	if size > limit {
		return fmt.Errorf("%w: %s is %d bytes, the limit is %d", errs.TooLarge, what, size, limit)
	}
	return nil
}

func (i *Instance) checkAddr() error {
	var validationErr []error
	if i.Port < 1 || i.Port > maxPort {
		validationErr = append(validationErr, errs.Invalidf("port %d is not in 1 to %d", i.Port, maxPort))
	}
	return errors.Join(append(validationErr, checkHost(i.Host))...)
}

// checkHost returns an error if host cannot be a host name or address. It does not resolve names.
func checkHost(host string) error {
	switch {
	case host == "":
		return errs.Invalidf("host is empty")
	case len(host) > maxAttributeBytes:
		return checkSize("host", len(host), maxAttributeBytes)
	case strings.Contains(host, ":"):
		if _, err := netip.ParseAddr(host); err != nil {
			return errs.Invalidf("invalid host %s: set Port for a port, and write IPv6 addresses without brackets", errs.Quote(host))
		}
		return nil
	case !utf8.ValidString(host), strings.ContainsFunc(host, isNotHostRune):
		return errs.Invalidf("host %s is not a name or an address", errs.Quote(host))
	}
	return nil
}

func isNotHostRune(r rune) bool {
	return unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`/\?#@[]<>^|"%`+"`{}", r)
}

func (i *Instance) checkAttributes() error {
	var validationErr []error
	check := func(what, s string) {
		validationErr = append(validationErr, checkSize(what, len(s), maxAttributeBytes))
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			validationErr = append(validationErr, errs.Invalidf("%s %s is not plain text", what, errs.Quote(s)))
		}
	}
	check("version", i.Version)
	check("zone", i.Zone)
	for n, r := range i.Scheme {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (n == 0 || !strings.ContainsRune("0123456789+-.", r)) {
			validationErr = append(validationErr, errs.Invalidf("invalid scheme %s", errs.Quote(i.Scheme)))
			break
		}
	}
	validationErr = append(validationErr, checkSize("scheme", len(i.Scheme), maxAttributeBytes))
	for _, tag := range i.Tags {
		if tag == "" || !utf8.ValidString(tag) || strings.ContainsFunc(tag, unicode.IsControl) {
			validationErr = append(validationErr, errs.Invalidf("tag %s is not plain text", errs.Quote(tag)))
		}
	}
	for k, v := range i.Metadata {
		if k == "" || !utf8.ValidString(k) || !utf8.ValidString(v) {
			validationErr = append(validationErr, errs.Invalidf("metadata %s is not UTF-8 text with a key", errs.Quote(k)))
		}
	}
	if i.Status != "" && i.Status != Up && i.Status != Draining {
		validationErr = append(validationErr, errs.Invalidf("unknown status %s", errs.Quote(string(i.Status))))
	}
	return errors.Join(validationErr...)
}
