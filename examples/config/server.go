package main

import (
	"context"
	"net"
	"net/http"
	"time"
)

// allowed returns how many requests are answered before one is refused.
func allowed(url string) (n int, err error) {
	for ; ; n++ {
		resp, err := http.Get(url) //nolint:noctx,gosec // the server is ours
		if err != nil {
			return 0, err
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			return n, nil
		}
	}
}

// serve starts an HTTP server on a free loopback port.
func serve(ctx context.Context, f http.HandlerFunc) (url string, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: f, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until it is closed
	}()
	return "http://" + l.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}
