// Gateway is a REST service over etcd: keys and values, services and their instances, health and
// metrics, with net/http and etcdkit alone.
//
//	go run ./examples/gateway                                  # with an etcd of its own
//	ETCD_ENDPOINTS=http://localhost:2379 go run ./examples/gateway
//	go run ./examples/gateway -config examples/etcd.yaml       # all settings and their defaults
//
// Then, in another terminal:
//
//	curl --json '{"value": "Ada"}' -X PUT localhost:8080/api/etcd/kv/users/42
//	curl localhost:8080/api/etcd/kv/users/42
//	curl localhost:8080/openapi.yaml                           # describes all routes
//
// README.md beside this file shows every route with its answer.
//
// # Keys
//
// All keys lie below one namespace: that of ETCD_NAMESPACE or of the file, and "myapp/" without
// either. A file without a namespace opens all of etcd, which the gateway logs a warning about.
//
// # Access
//
// Without a token the gateway listens on the loopback only and answers requests to the loopback's
// names only, so that no web page can reach it through a browser on the same machine. With a token
// (-token-file) every request but those for health must carry it as "Authorization: Bearer ...".
// The gateway does not speak TLS: put a proxy in front of it if the network is not trusted.
//
// # Answers
//
// All answers but health, metrics and the description are
// {"success": …, "data": …, "error": …, "code": …}. 503 means that etcd did not answer and that
// nothing was changed. 504 means that a write may have been applied, or not. A conditional request
// whose condition does not hold is answered with 412, a lost compare-and-swap with 409.
//
// # Shutdown
//
// On Ctrl-C or SIGTERM the gateway stops accepting requests and finishes those in progress. Then it
// closes its watches, removes what it has registered, and disconnects, in this order. A second
// Ctrl-C ends it at once, and registrations expire with their TTL.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/examples/settings"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // first, so that a second signal ends the program at once
		stop()
	}()
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C during the start is not an error
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// run runs the gateway until ctx ends, and closes everything.
func run(ctx context.Context, args []string, out io.Writer) error {
	set, mode, err := configure(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case mode.probe:
		return checkHealth(ctx, set.Gateway.Listen)
	}
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: set.Log.Level}))
	stopServer := func() {}
	if mode.embed {
		if set.Etcd.Endpoints, stopServer, err = embedded.Endpoints(ctx); err != nil {
			return err
		}
		log.InfoContext(ctx, "no etcd is configured: using an etcd inside this process")
	}
	defer stopServer()
	client, err := etcdkit.Open(ctx, set.Etcd, etcdkit.WithLogger(log))
	if err != nil {
		return err
	}
	svc, err := newService(ctx, client, set, log)
	if err != nil {
		_ = client.Close() // err is the cause
		return err
	}
	return serve(ctx, svc)
}

// defaultNamespace is the namespace if neither the file nor the environment has one.
const defaultNamespace = "myapp/"

// mode is what the program does.
type mode struct {
	probe bool // ask a running gateway for its health, and exit
	embed bool // start an etcd, since nothing names one
}

// configure reads the arguments, the environment and the configuration file.
func configure(args []string, out io.Writer) (set settings.Settings, m mode, err error) {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(out)
	file := flags.String("config", os.Getenv(embedded.ConfigFile), "configuration `file`, such as examples/etcd.yaml")
	listen := flags.String("listen", "", "`address` to listen on; overrides the file")
	token := flags.String("token-file", "", "`file` with the token that requests must carry; overrides the file")
	blank := flags.Bool("allow-blank", false, "accept blank values in put and compare-and-swap")
	flags.BoolVar(&m.probe, "probe", false, "ask a gateway on this machine for its health, and exit")
	if err := flags.Parse(args); err != nil {
		return set, m, err
	}
	if flags.NArg() > 0 {
		return set, m, fmt.Errorf("unexpected argument %q: there are only flags", flags.Arg(0))
	}
	set = settings.Default()
	set.Etcd.Namespace = defaultNamespace
	if *file != "" {
		if set, err = settings.Load(*file); err != nil {
			return set, m, err
		}
	}
	if *listen != "" {
		set.Gateway.Listen = *listen
	}
	if *token != "" {
		set.Gateway.TokenFile = *token
	}
	set.Gateway.AllowBlank = set.Gateway.AllowBlank || *blank
	set.Etcd, err = set.Etcd.WithEnv()
	m.embed = *file == "" && set.Etcd.Endpoints == nil && set.Etcd.DiscoverySRV == ""
	return set, m, err
}

// checkHealth asks a gateway for its health. It is the health check of a container without curl.
func checkHealth(ctx context.Context, listen string) error {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	url := "http://" + reachable(listen) + "/api/etcd/health"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	direct := &http.Transport{DisableKeepAlives: true} // no proxy: it is this machine
	resp, err := direct.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not healthy: %s", resp.Status)
	}
	return nil
}
