package discovery

import "slices"

// PlaceOption restricts the instances that a [Picker] or a resolver uses.
type PlaceOption interface{ place(p *placement) }

// placement holds the place options.
type placement struct {
	filters []Filter
	zone    string
	atLeast int
}

func newPlacement(o []PlaceOption) *placement {
	p := &placement{}
	for _, o := range o {
		if o != nil {
			o.place(p)
		}
	}
	return p
}

// Filter is a condition on instances for [Service.Instances], [Service.Picker] and
// [Registry.Resolver]. Of several filters, all must match. The zero Filter matches everything.
type Filter struct{ keep func(i *Instance) bool }

func (f Filter) place(p *placement) { p.filters = append(p.filters, f) }

// Only returns a filter for instances for which keep returns true. keep is called on every change
// of the instances; it must be fast and must not modify them.
func Only(keep func(i *Instance) bool) Filter { return Filter{keep} }

// OnlyVersion returns a filter for instances of a version.
func OnlyVersion(version string) Filter {
	return Only(func(i *Instance) bool { return i.Version == version })
}

// OnlyZone returns a filter for instances in a zone. See [PreferZone] for a preference.
func OnlyZone(zone string) Filter { return Only(func(i *Instance) bool { return i.Zone == zone }) }

// OnlyTag returns a filter for instances with a tag.
func OnlyTag(tag string) Filter {
	return Only(func(i *Instance) bool { return slices.Contains(i.Tags, tag) })
}

// OnlyMetadata returns a filter for instances with a metadata entry.
func OnlyMetadata(key, value string) Filter {
	return Only(func(i *Instance) bool { v, ok := i.Metadata[key]; return ok && v == value })
}

// OnlyUp returns a filter for instances that are not draining. Pickers and resolvers avoid draining
// instances anyway while there are others.
func OnlyUp() Filter { return Only((*Instance).up) }

func passes(i *Instance, filters []Filter) bool {
	for _, f := range filters {
		if f.keep != nil && !f.keep(i) {
			return false
		}
	}
	return true
}

type preferZone struct {
	zone    string
	atLeast int
}

func (z preferZone) place(p *placement) { p.zone, p.atLeast = z.zone, max(z.atLeast, 1) }

// PreferZone restricts a picker or a resolver to the instances in a zone while it can use at least
// atLeast of them. Otherwise it uses the instances of all zones, so that a few do not carry all the
// load. atLeast below 1 counts as 1. An empty zone means no preference. Default: none.
func PreferZone(zone string, atLeast int) PlaceOption { return preferZone{zone, atLeast} }

// candidates returns the matching instances that are up or, if there are none, the draining ones.
func (p *placement) candidates(list []*Instance) []*Instance {
	var draining []*Instance
	up := make([]*Instance, 0, len(list))
	for _, i := range list {
		switch {
		case !passes(i, p.filters):
		case i.up():
			up = append(up, i)
		default:
			draining = append(draining, i)
		}
	}
	if len(up) == 0 {
		return draining
	}
	return up
}

// preferredZone returns the elements in the preferred zone if there are enough, and all otherwise.
func preferredZone[T any](p *placement, all []T, zone func(T) string) []T {
	if p.zone == "" {
		return all
	}
	var local []T
	for _, i := range all {
		if zone(i) == p.zone {
			local = append(local, i)
		}
	}
	if len(local) >= p.atLeast {
		return local
	}
	return all
}
