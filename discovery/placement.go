package discovery

import "slices"

// PlaceOption narrows down which instances are picked from. It fits a [Picker] and a resolver.
type PlaceOption interface{ place(p *placement) }

// placement is what place options add up to.
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

// Filter is a condition on instances, for [Service.Instances], [Service.Picker] and [Registry.Resolver]. Several must all
// hold. The zero Filter lets everything pass.
type Filter struct{ keep func(i *Instance) bool }

func (f Filter) place(p *placement) { p.filters = append(p.filters, f) }

// Only lets those instances pass for which keep is true. It must be quick, must not change the instance, and is called
// whenever instances change.
func Only(keep func(i *Instance) bool) Filter { return Filter{keep} }

// OnlyVersion lets the instances of one version pass.
func OnlyVersion(version string) Filter {
	return Only(func(i *Instance) bool { return i.Version == version })
}

// OnlyZone lets the instances of one zone pass. See [PreferZone] for a wish instead of a condition.
func OnlyZone(zone string) Filter { return Only(func(i *Instance) bool { return i.Zone == zone }) }

// OnlyTag lets the instances pass that have a tag.
func OnlyTag(tag string) Filter {
	return Only(func(i *Instance) bool { return slices.Contains(i.Tags, tag) })
}

// OnlyMetadata lets the instances pass whose Metadata has a value under a key.
func OnlyMetadata(key, value string) Filter {
	return Only(func(i *Instance) bool { v, ok := i.Metadata[key]; return ok && v == value })
}

// OnlyUp leaves draining instances out. Pickers and resolvers do so by themselves while there are others.
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

// PreferZone keeps to the instances of a zone while at least so many of them can be picked, and takes those of all zones
// otherwise: with too few, the zone's own would have to carry everything. atLeast below 1 counts as 1. An empty zone is no
// preference. Default: none.
func PreferZone(zone string, atLeast int) PlaceOption { return preferZone{zone, atLeast} }

// candidates are the instances that pass the filters and take work. If none of them does, those that drain still are
// better than nothing.
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

// preferredZone are those of the preferred zone, if they are enough, and all otherwise.
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
