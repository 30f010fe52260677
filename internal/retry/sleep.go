package retry

import (
	"context"
	"time"
)

// Sleep waits for d. If ctx ends first, it returns the error of [ContextError].
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ContextError(ctx)
	}
}
