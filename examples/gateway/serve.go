package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// writeTime is the time for an answer to be sent.
const writeTime = 10 * time.Second

// serve listens and answers requests until ctx ends. Then it finishes those in progress and closes
// svc.
func serve(ctx context.Context, svc *service) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", svc.set.Gateway.Listen)
	if err == nil {
		err = svc.serveOn(ctx, l)
	}
	return errors.Join(err, svc.close(context.WithoutCancel(ctx)))
}

// serveOn answers the requests on l until ctx ends or l fails, and finishes those in progress. It
// closes l.
func (s *service) serveOn(ctx context.Context, l net.Listener) error {
	if s.token == nil && !loopback(l.Addr().String()) {
		_ = l.Close() // no request was accepted
		return fmt.Errorf("%s is not a loopback address: set a token file, or anybody can read and write all keys", l.Addr())
	}
	limits := &s.set.Gateway.Limits
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Duration(limits.HeaderTimeout),
		ReadTimeout:       time.Duration(limits.ReadTimeout),
		WriteTimeout:      time.Duration(limits.ReadTimeout) + time.Duration(limits.Request) + writeTime,
		IdleTimeout:       time.Duration(limits.IdleTimeout),
		MaxHeaderBytes:    limits.HeaderBytes,
		ConnState:         limitConns(limits.Connections),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // errors of clients

		DisableGeneralOptionsHandler: true,
	}
	serving, failed := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { failed(server.Serve(l)) })
	s.log.InfoContext(ctx, "gateway listens", "address", l.Addr().String(), "token", s.token != nil)
	<-serving.Done()
	cause := context.Cause(serving)
	s.log.InfoContext(ctx, "gateway stops", "cause", cause.Error())
	err := s.drain(context.WithoutCancel(ctx), server)
	wg.Wait()
	if ctx.Err() == nil {
		err = errors.Join(cause, err) // the listener has failed
	}
	return err
}

// limitConns returns a ConnState hook that keeps at most n connections open. The server calls it
// before it accepts the next connection; while the hook blocks, connections wait in the system's
// queue.
func limitConns(n int) func(net.Conn, http.ConnState) {
	open := make(chan struct{}, n)
	return func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open <- struct{}{}
		case http.StateClosed, http.StateHijacked:
			<-open
		case http.StateActive, http.StateIdle:
		}
	}
}

// drain waits for the requests in progress, for the configured time.
func (s *service) drain(ctx context.Context, server *http.Server) error {
	ctx, stop := context.WithTimeout(ctx, time.Duration(s.set.Gateway.Limits.Shutdown))
	defer stop()
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close() // ends the requests that have not finished
		err = fmt.Errorf("requests were cut off at shutdown: %w", err)
	}
	s.log.InfoContext(ctx, "requests drained")
	return err
}

// loopback reports whether an address, with or without a port, is that of the loopback.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// reachable returns the address at which a gateway on this machine answers that listens on an
// address such as ":8080".
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return listen
}
