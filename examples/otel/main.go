// Otel traces and measures the calls of a client with OpenTelemetry. Each operation, such as the
// wait for a lock, is a span below that of its caller, and each RPC is a span below that of its
// operation, and is counted and timed. Spans and metrics hold no keys and no values.
//
//	go run ./examples/otel
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("otel: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	// A real program sends them to a collector: sdktrace.WithBatcher and
	// sdkmetric.NewPeriodicReader, with exporters such as otlptracegrpc.
	spans, reader := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if err := serve(ctx, traces, metrics); err != nil {
		return err
	}
	for _, span := range spans.GetSpans() {
		// Other spans are RPCs, and calls of the client itself.
		if span.InstrumentationScope.Name == "etcdkit" && span.Parent.IsValid() {
			_, _ = fmt.Fprintln(out, "span:", span.Name, "failed:", span.Status.Code == codes.Error)
		}
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		return err
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			_, _ = fmt.Fprintln(out, "measured:", m.Name)
		}
	}
	return errors.Join(traces.Shutdown(ctx), metrics.Shutdown(ctx))
}

// serve is a service that uses etcd. The providers may be those of otel.SetTracerProvider and
// otel.SetMeterProvider.
func serve(ctx context.Context, traces trace.TracerProvider, metrics metric.MeterProvider) error {
	handler := otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(traces), otelgrpc.WithMeterProvider(metrics))
	client, stop, err := embedded.Connect(ctx, "example-otel",
		etcdkit.WithDialOptions(grpc.WithStatsHandler(handler)), etcdkit.WithObserver(observer(traces.Tracer("etcdkit"))))
	if err != nil {
		return err
	}
	defer stop()
	return order(ctx, client, traces.Tracer("shop"))
}

// order starts a span, below which are the calls that it makes with its context.
func order(ctx context.Context, client *etcdkit.Client, tracer trace.Tracer) error {
	ctx, span := tracer.Start(ctx, "order")
	defer span.End()
	return client.Locks().Mutex("stock").Do(ctx, func(ctx context.Context, _ *lock.Held) error {
		return ship(ctx, client.KV())
	})
}

// ship writes and reads under the lock.
func ship(ctx context.Context, store *kv.Store) error {
	if _, err := store.Put(ctx, "orders/bicycle", []byte("a present for Ada")); err != nil {
		return err
	}
	_, err := store.Update(ctx, "orders/bicycle", func(kv.Entry[[]byte]) ([]byte, error) { return []byte("sent to Ada"), nil })
	if err != nil {
		return err
	}
	for _, err := range store.List(ctx, "orders/") {
		if err != nil {
			return err
		}
	}
	// There is no such lease.
	_, err = store.Put(ctx, "orders/tricycle", []byte("reserved"), kv.WithLease(1))
	if errors.Is(err, lease.ErrNotFound) {
		return nil
	}
	return err
}
