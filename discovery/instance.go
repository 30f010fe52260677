package discovery

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// An Instance is one running copy of a service and its address.
//
// Instances returned by this package are shared; do not modify their Tags and Metadata.
type Instance struct {
	Service string // its name: 1 to 512 bytes without "/" and control characters
	ID      string // unique within the service; best stable over restarts, such as a pod's name
	Host    string // DNS name or IP address, without brackets and port
	Port    int    // 1 to 65535

	Scheme  string // such as "https"; may be empty, as may all below
	Version string // for OnlyVersion
	Zone    string // for OnlyZone and PreferZone
	// Weight is for Weighted, LeastLoaded and Sticky. The maximum is MaxWeight; 0 counts as 1.
	Weight   int
	Tags     []string          // for OnlyTag
	Metadata map[string]string // at most 1 KiB in total

	// Status is Up by default. It is set by Register, Update and Drain.
	Status Status
	// Registered is when the instance was first registered, by its process's clock. It is set by
	// Register.
	Registered time.Time
}

// Status says whether an instance accepts work.
type Status string

// The values of Status. Unknown values are treated as Draining.
const (
	// Up accepts work. So does the empty Status.
	Up Status = "up"
	// Draining finishes its work and is about to leave. Pickers and resolvers avoid it while there
	// are others.
	Draining Status = "draining"
)

// Addr returns "host:port".
func (i *Instance) Addr() string { return net.JoinHostPort(i.Host, strconv.Itoa(i.Port)) }

// URL returns "scheme://host:port", or "//host:port" without a scheme.
func (i *Instance) URL() string {
	if i.Scheme == "" {
		return "//" + i.Addr()
	}
	return i.Scheme + "://" + i.Addr()
}

// up reports whether the instance accepts work.
func (i *Instance) up() bool { return i.Status == Up || i.Status == "" }

// weight returns the effective weight.
func (i *Instance) weight() int { return max(i.Weight, 1) }

// clone returns a deep copy.
func (i *Instance) clone() Instance {
	c := *i
	c.Tags, c.Metadata = slices.Clone(i.Tags), maps.Clone(i.Metadata)
	return c
}

// same reports whether two instances are equal.
func (i *Instance) same(j *Instance) bool {
	return i.Service == j.Service && i.ID == j.ID && i.Host == j.Host && i.Port == j.Port && i.Scheme == j.Scheme &&
		i.Version == j.Version && i.Zone == j.Zone && i.Weight == j.Weight && i.Status == j.Status &&
		i.Registered.Equal(j.Registered) && slices.Equal(i.Tags, j.Tags) && maps.Equal(i.Metadata, j.Metadata)
}
