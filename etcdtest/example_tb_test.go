package etcdtest_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
)

// exampleTB stands for the *testing.T of a test in Examples, which have none.
type exampleTB struct {
	testing.TB

	ctx      context.Context
	cancel   context.CancelFunc
	cleanups []func()
}

// newT returns the t of an example. finish ends the test.
func newT() *exampleTB {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // an example has no other
	return &exampleTB{ctx: ctx, cancel: cancel}
}

func (t *exampleTB) finish() {
	t.cancel()
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
}

func (*exampleTB) Helper()                           {}
func (*exampleTB) Name() string                      { return "Example" }
func (*exampleTB) Output() io.Writer                 { return io.Discard }
func (t *exampleTB) Context() context.Context        { return t.ctx }
func (t *exampleTB) Cleanup(f func())                { t.cleanups = append(t.cleanups, f) }
func (*exampleTB) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (*exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
