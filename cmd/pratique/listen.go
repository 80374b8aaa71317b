package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"pratique/internal/config"
	"pratique/internal/rungroup"
)

// drain is how long running requests may take to finish when the process stops:
// longer than a pull is held (25 s), as long as Kubernetes waits by default.
const drain = 30 * time.Second

// listen opens a listener now, so that a taken address is an error of the start,
// and returns the part that serves it.
//
// A header has 10 s to arrive and a connection may idle for two minutes. There
// is no limit on the whole of a request: a layer of gigabytes over a slow line
// takes what it takes.
func listen(ctx context.Context, name, address string, certificate config.TLS, handler http.Handler, log *slog.Logger) (rungroup.Part, error) {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          serverLog(log, name),
	}
	if certificate.Cert != "" {
		pair, err := tls.LoadX509KeyPair(certificate.Cert, certificate.Key)
		if err != nil {
			return rungroup.Part{}, fmt.Errorf("%s.tls: %w", name, err)
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return rungroup.Part{}, fmt.Errorf("%s.listen: %w", name, err)
	}
	log.InfoContext(ctx, "listening", "listener", name, "address", l.Addr().String(), "tls", server.TLSConfig != nil)
	return rungroup.Part{
		Name:  name + " listener",
		Limit: drain,
		Run: func(context.Context) error {
			var err error
			if server.TLSConfig != nil {
				err = server.ServeTLS(l, "", "")
			} else {
				err = server.Serve(l)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return err
		},
		Stop: func(ctx context.Context) error {
			err := server.Shutdown(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				// Clients resume by Range; the process has to end.
				err = fmt.Errorf("requests still running after %s were cut", drain)
			}
			return errors.Join(err, server.Close(), closeListener(l))
		},
	}, nil
}

// closeListener closes one that was never served; Shutdown does it otherwise.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
