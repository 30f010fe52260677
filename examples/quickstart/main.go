// Quickstart uses every package of etcdkit, step by step, and prints the results. It starts an etcd
// of its own unless ETCD_ENDPOINTS is set, and uses the namespace quickstart/, which it empties
// first:
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

// User is a stored value.
type User struct {
	Name   string `json:"name"`
	Visits int    `json:"visits"`
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C is not an error
		log.Fatalf("quickstart: %v", err)
	}
}

func run(ctx context.Context) error {
	// One client for the whole process. Connect returns once etcd has answered.
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
		{"Replace what was read: one wins, the other gets a conflict", swap},
		{"Many goroutines update one value, and no update is lost", update},
		{"List at one revision", list},
		{"A write that etcd refuses once its guard has changed", guarded},
		{"A write whose outcome is known even if its answer is lost", once},
		{"Follow changes, from the current state on", follow},
		{"A key that expires", ttl},
		{"A session that ends in time", session},
		{"A key that is restored", presence},
		{"A lock, and a leader", locks},
		{"Reads from memory", cached},
		{"Configuration that changes while the program runs", configured},
		{"Register a service and find it", discovered},
		{"The health of the cluster", health},
	}
	for i, step := range steps {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		if err := step.run(ctx, client); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	fmt.Println("\nDone.")
	return nil
}

func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }
