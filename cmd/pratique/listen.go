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
	"pratique/proxy"
)

// budget is the time that requests and transfers have together to finish when
// the process stops. It begins with the first part that asks; parts are stopped
// one after the other.
type budget struct {
	limit time.Duration
	until time.Time
}

// slack is what stopping takes besides waiting.
const slack = 5 * time.Second

// context ends with the budget.
func (b *budget) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.until.IsZero() {
		b.until = time.Now().Add(b.limit)
	}
	return context.WithDeadline(ctx, b.until)
}

// transfers lets what is fetched arrive within the budget; what does not is
// fetched again by whoever asks for it next.
func (b *budget) transfers(stop func(context.Context) error) rungroup.Part {
	return rungroup.Part{Name: "transfers", Limit: b.limit + slack, Stop: func(ctx context.Context) error {
		ctx, cancel := b.context(ctx)
		defer cancel()
		return stop(ctx)
	}}
}

// drained is listen for requests that finish within the budget when the process
// stops: new ones are turned away meanwhile, on a listener that stays open for
// as long, so that a client is told when to come again.
func (b *budget) drained(ctx context.Context, name, address string, certificate config.TLS, handler *proxy.Drain, log *slog.Logger) (rungroup.Part, error) {
	part, server, err := open(ctx, name, address, certificate, handler, log)
	if err != nil {
		return part, err
	}
	closeNow := part.Stop
	part.Limit = b.limit + slack
	part.Stop = func(ctx context.Context) error {
		wait, cancel := b.context(ctx)
		defer cancel()
		server.SetKeepAlivesEnabled(false)
		left, err := handler.Wait(wait)
		if err != nil {
			// Clients resume by Range; the process has to end.
			err = fmt.Errorf("%d requests still running after %s were cut", left, b.limit)
		}
		return errors.Join(err, closeNow(wait))
	}
	return part, nil
}

// listen opens a listener now, so that a taken address is an error of the start,
// and returns the part that serves it.
//
// A header has 10 s to arrive and a connection may idle for two minutes. There
// is no limit on the whole of a request: a layer of gigabytes over a slow line
// takes what it takes.
func listen(ctx context.Context, name, address string, certificate config.TLS, handler http.Handler, log *slog.Logger) (rungroup.Part, error) {
	part, _, err := open(ctx, name, address, certificate, handler, log)
	return part, err
}

func open(ctx context.Context, name, address string, certificate config.TLS, handler http.Handler, log *slog.Logger) (rungroup.Part, *http.Server, error) {
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
			return rungroup.Part{}, nil, fmt.Errorf("%s.tls: %w", name, err)
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return rungroup.Part{}, nil, fmt.Errorf("%s.listen: %w", name, err)
	}
	log.InfoContext(ctx, "listening", "listener", name, "address", l.Addr().String(), "tls", server.TLSConfig != nil)
	return rungroup.Part{
		Name: name + " listener",
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
			// What still runs after ctx is cut by Close, and told of by whoever waited.
			err := server.Shutdown(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				err = nil
			}
			return errors.Join(err, server.Close(), closeListener(l))
		},
	}, server, nil
}

// closeListener closes one that was never served; Shutdown does it otherwise.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
