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

// serve listens, and answers until ctx ends; then it finishes what is under way and closes svc.
func serve(ctx context.Context, svc *service) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", svc.set.Gateway.Listen)
	if err == nil {
		err = svc.serveOn(ctx, l)
	}
	return errors.Join(err, svc.close(context.WithoutCancel(ctx)))
}

// serveOn answers the requests that come to l until ctx ends or l fails, and those under way are finished. It closes l.
func (s *service) serveOn(ctx context.Context, l net.Listener) error {
	if s.token == nil && !loopback(l.Addr().String()) {
		_ = l.Close() // nothing was answered
		return fmt.Errorf("%s is not the loopback: others could read and write everything; set a token file", l.Addr())
	}
	limits := &s.set.Gateway.Limits
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Duration(limits.HeaderTimeout),
		ReadTimeout:       time.Duration(limits.ReadTimeout),
		WriteTimeout:      time.Duration(limits.ReadTimeout) + time.Duration(limits.Request) + 10*time.Second, // to read, work and answer
		IdleTimeout:       time.Duration(limits.IdleTimeout),
		MaxHeaderBytes:    limits.HeaderBytes,
		ConnState:         limitConns(limits.Connections),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what clients do wrong

		DisableGeneralOptionsHandler: true,
	}
	serving, failed := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { failed(server.Serve(l)) })
	s.log.InfoContext(ctx, "gateway listens", "address", l.Addr().String(), "token", s.token != nil)
	<-serving.Done()
	why := context.Cause(serving)
	s.log.InfoContext(ctx, "gateway stops", "cause", why.Error())
	err := s.drain(context.WithoutCancel(ctx), server)
	wg.Wait()
	if ctx.Err() == nil {
		err = errors.Join(why, err) // the listener has failed
	}
	return err
}

// limitConns returns a hook for the states of connections that keeps at most n of them open. The server calls it before it
// serves a connection and accepts the next one; while that blocks, further connections wait in the queue of the system.
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

// drain lets the requests under way finish, for a while.
func (s *service) drain(ctx context.Context, server *http.Server) error {
	ctx, stop := context.WithTimeout(ctx, time.Duration(s.set.Gateway.Limits.Shutdown))
	defer stop()
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close() // ends the requests that have not finished
		err = fmt.Errorf("requests were cut off: %w", err)
	}
	s.log.InfoContext(ctx, "http is drained")
	return err
}

// loopback reports whether an address, with a port or without, is reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// reachable is where a gateway on this machine is reached that listens on an address such as ":8080".
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return listen
}
