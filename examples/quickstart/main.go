// Quickstart shows what etcdkit does, step by step, with the results. It starts an etcd of its own when ETCD_ENDPOINTS is
// not set, and else works on that one, below the namespace quickstart/, which it empties first:
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
)

// User is what we store.
type User struct {
	Name   string `json:"name"`
	Visits int    `json:"visits"`
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C is no failure
		log.Fatalf("quickstart: %v", err)
	}
}

func run(ctx context.Context) error {
	// One client for the whole process. It comes back when etcd has answered, or says what is wrong with each endpoint.
	client, stop, err := embedded.Connect(ctx, "quickstart")
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println("connected to", client.Raw().Endpoints())

	steps := []struct {
		title string
		run   func(ctx context.Context, client *etcdkit.Client) error
	}{
		{"Start from nothing", clean},
		{"Store and read a typed value", typed},
		{"Compare and swap: one wins, one is told", swap},
		{"Many update one value, nothing is lost", update},
		{"List, at one revision", list},
		{"A write that etcd refuses once a condition is gone", guarded},
		{"A write whose outcome is known even if its answer is lost", once},
		{"Follow what happens, from the current state on", follow},
		{"A key that vanishes by itself", ttl},
		{"A session knows in time when it is over", session},
		{"A key that comes back by itself", presence},
		{"One at a time, and a leader", locks},
		{"Reads at the speed of memory", cached},
		{"Configuration that changes under a running program", configured},
		{"Who is there, and whom to call", discovered},
		{"Is the cluster well?", health},
	}
	for i, step := range steps {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		if err := step.run(ctx, client); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	fmt.Println("\nThat is all.")
	return nil
}

func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }
