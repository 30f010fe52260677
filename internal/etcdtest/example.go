package etcdtest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
)

// ExampleT stands for the *testing.T of a test in Examples, which have none.
type ExampleT struct {
	testing.TB

	ctx      context.Context //nolint:containedctx // Context returns it
	cancel   context.CancelFunc
	cleanups []func()
}

// NewExampleT returns the t of an example.
func NewExampleT() *ExampleT {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // an example has no other
	return &ExampleT{ctx: ctx, cancel: cancel}
}

// Finish ends the test.
func (t *ExampleT) Finish() {
	t.cancel()
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
}

// Helper does nothing.
func (*ExampleT) Helper() {}

// Name returns "Example".
func (*ExampleT) Name() string { return "Example" }

// Output discards what is written.
func (*ExampleT) Output() io.Writer { return io.Discard }

// Context returns a context that ends with the test.
func (t *ExampleT) Context() context.Context { return t.ctx }

// Cleanup makes Finish call f.
func (t *ExampleT) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

// Fatal panics.
func (*ExampleT) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Fatalf panics.
func (*ExampleT) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
