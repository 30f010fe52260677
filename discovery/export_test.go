package discovery

import (
	"log/slog"

	"github.com/etcdkit/etcdkit/watch"
)

// Decode reads the value of an instance.
func Decode(grpcNaming bool, service, id string, value []byte) (*Instance, error) {
	l := native()
	if grpcNaming {
		l = naming()
	}
	return l.decode(service, id, value)
}

// Encode writes it.
func Encode(grpcNaming bool, i *Instance) ([]byte, error) {
	if grpcNaming {
		return encodeNaming(i)
	}
	return encodeRecord(i)
}

// Same reports whether two instances are equal.
func Same(a, b *Instance) bool { return a.same(b) }

// Change changes what is to be in etcd as f says.
func Change(g *Registration, f func(i *Instance)) error { return g.changeAll(g.ctx, f) }

// NewView returns a view without a watch, and the function that hands it batches. It holds nothing
// back.
func NewView(service string) (s *Service, apply func(watch.Batch)) {
	set := options{layout: native(), logger: slog.New(slog.DiscardHandler)}
	v := newView(nil, service, &set)
	v.onStart()
	return &Service{r: &Registry{options: set}, v: v}, v.onBatch
}
