package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_EachOperationIsASpan(t *testing.T) {
	assert.Equal(t, `span: lock wait failed: false
span: kv put failed: false
span: kv update failed: false
span: kv list failed: false
span: kv put failed: true
span: lock hold failed: false
measured: rpc.client.call.duration
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "span: kv put")
}

func TestRun_SpansAndMetricsHoldNoKeysOrValues(t *testing.T) {
	exampletest.Alone(t)
	spans, reader := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()
	require.NoError(t, serve(t.Context(),
		sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)), sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	clean := func(attributes any) {
		t.Helper()
		text := fmt.Sprintf("%+v", attributes)
		for _, secret := range []string{"bicycle", "tricycle", "orders", "example-otel", "Ada", "reserved"} {
			assert.NotContains(t, text, secret)
		}
	}

	order := named(t, spans.GetSpans(), "order")
	below := map[string]int{}
	operations := map[trace.SpanID]string{}
	for _, span := range spans.GetSpans() {
		clean(span)
		if span.Parent.SpanID() == order.SpanContext.SpanID() && span.InstrumentationScope.Name == "etcdkit" {
			below[span.Name]++
			operations[span.SpanContext.SpanID()] = span.Name
			assert.Equal(t, order.SpanContext.TraceID(), span.SpanContext.TraceID())
			assert.False(t, span.EndTime.Before(span.StartTime))
		}
	}
	assert.Equal(t, map[string]int{"lock wait": 1, "lock hold": 1, "kv put": 2, "kv update": 1, "kv list": 1}, below)
	requests := map[string]int{}
	for _, span := range spans.GetSpans() {
		if op := operations[span.Parent.SpanID()]; op != "" {
			requests[op+" > "+span.Name]++
		}
	}
	for name, n := range map[string]int{
		"kv put > etcdserverpb.KV/Put": 2, "kv update > etcdserverpb.KV/Range": 1, "kv update > etcdserverpb.KV/Txn": 1,
		"kv list > etcdserverpb.KV/Range": 1, "kv list > etcdserverpb.KV/RangeStream": 1, "lock wait > etcdserverpb.KV/Txn": 1,
	} {
		assert.Equal(t, n, requests[name], "%s: %v", name, requests)
	}
	wait := named(t, spans.GetSpans(), "lock wait")
	assert.Contains(t, wait.Attributes, attribute.String("etcdkit.target", "stock"))
	assert.Contains(t, wait.Attributes, attribute.Int("etcdkit.attempts", 1))

	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	clean(all)
	puts := map[string]uint64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			times, ok := m.Data.(metricdata.Histogram[float64])
			require.True(t, ok, m.Name)
			for _, point := range times.DataPoints {
				if method, _ := point.Attributes.Value("rpc.method"); method.AsString() == "etcdserverpb.KV/Put" {
					status, _ := point.Attributes.Value("rpc.response.status_code")
					puts[status.AsString()] += point.Count
				}
			}
		}
	}
	assert.Equal(t, map[string]uint64{"OK": 1, "NOT_FOUND": 1}, puts)
}

func named(t *testing.T, spans tracetest.SpanStubs, name string) tracetest.SpanStub {
	t.Helper()
	for _, span := range spans {
		if span.Name == name {
			return span
		}
	}
	require.Fail(t, "no span", name)
	return tracetest.SpanStub{}
}
