// Config runs an HTTP server whose rate limit is a key in etcd. The limit changes while the server
// runs, and an invalid value changes nothing.
//
//	go run ./examples/config
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/examples/embedded"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C is not an error
		log.Fatalf("config: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-config")
	if err != nil {
		return err
	}
	defer stop()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	invalid := make(chan error, 1) // a real program counts these and alerts
	source, err := config.Open(ctx, client, "config", config.WithErrorHandler(func(key string, _ int64, err error) {
		replace(invalid, fmt.Errorf("%s: %w", key, err))
	}))
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // the program ends
	if _, err := source.Delete(ctx, "http/rate-limit"); err != nil {
		return err
	}
	return demonstrate(ctx, client, source, invalid, say)
}

func demonstrate(ctx context.Context, client *etcdkit.Client, source *config.Source, invalid <-chan error, say func(string, ...any)) error {
	limit, err := config.Bind(source, "http/rate-limit", config.WithDefault(2), config.WithValidate(positive))
	if err != nil {
		return err
	}
	changed := make(chan int, 1)
	unfollow := limit.Follow(func(n int) { replace(changed, n) }) // the current value comes first
	defer unfollow()
	n, err := receive(ctx, changed)
	if err != nil {
		return err
	}
	say("the limit is %d (the default)", n)

	var requests atomic.Int64 // of the current period; a real limiter uses time
	url, closeServer, err := serve(ctx, func(w http.ResponseWriter, _ *http.Request) {
		if int(requests.Add(1)) > limit.Load() { // as cheap as reading a variable
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	if err != nil {
		return err
	}
	defer closeServer()
	report := func() error {
		requests.Store(0)
		n, err := allowed(url)
		if err == nil {
			say("the server lets %d requests through", n)
		}
		return err
	}
	if err := report(); err != nil {
		return err
	}
	// Another program changes the key, or a person with
	// `etcdctl put example-config/config/http/rate-limit 5`.
	put := func(value string) error {
		_, err := client.KV().Put(ctx, "config/http/rate-limit", []byte(value))
		return err
	}
	if err := put("5"); err != nil {
		return err
	}
	if n, err = receive(ctx, changed); err != nil {
		return err
	}
	say("the limit is %d", n)
	if err := errors.Join(report(), put("many")); err != nil {
		return err
	}
	refused, err := receive(ctx, invalid)
	if err != nil {
		return err
	}
	say("an invalid value is reported: %v", refused)
	return report()
}

// replace puts v into c, which has room for one value, and drops a value that was not received. A
// function that the library calls must not wait for a receiver, since Close waits for the function.
func replace[T any](c chan T, v T) {
	select {
	case <-c:
	default:
	}
	c <- v
}

// receive returns the next value of c.
func receive[T any](ctx context.Context, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
		return v, nil
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

func positive(n int) error {
	if n < 1 {
		return errors.New("must be at least 1")
	}
	return nil
}
