package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/notify/hook"
	"pratique/proxy"
	"pratique/proxy/upstream"
)

// hooks are the webhooks of registries, and what follows them up.
type hooks struct {
	admin http.Handler // for the admin listener; nil when there are none, or they have their own
	parts []rungroup.Part
	queue *rungroup.Part // follows up what they told; one replica does it for all
}

// newHooks takes the webhooks of the configured callers; without any nobody may call.
func newHooks(ctx context.Context, cfg config.Config, state state, cache *proxy.Cache, gate hook.Gate, log *slog.Logger, metrics prometheus.Registerer) (*hooks, error) {
	receivers, err := newReceivers(cfg)
	if err != nil {
		return nil, err
	}
	prefetch, err := pratique.ParsePatterns(cfg.Hooks.Prefetch)
	if err != nil {
		return nil, fmt.Errorf("hooks.prefetch: %w", err)
	}
	queue := hook.NewQueue(state, cache, gate, state, hook.QueueConfig{Prefetch: prefetch, Log: log, Metrics: metrics})
	handler, err := hook.New(ctx, receivers, queue, hook.Config{Log: log, Metrics: metrics})
	if err != nil {
		return nil, fmt.Errorf("hooks.from: %w", err)
	}
	if len(cfg.Hooks.From) == 0 {
		return &hooks{}, nil
	}
	h := &hooks{queue: &rungroup.Part{Name: "pushes", Run: untilStopped(queue.Run)}}
	if cfg.Hooks.Listen == "" {
		h.admin = handler
		return h, nil
	}
	listener, err := listen(ctx, "hooks", cfg.Hooks.Listen, cfg.Hooks.TLS, handler, log)
	if err != nil {
		return nil, err
	}
	h.parts = append(h.parts, listener)
	return h, nil
}

// checkHooks reads the files of hooks as a server that starts would.
func checkHooks(ctx context.Context, cfg config.Config) error {
	receivers, err := newReceivers(cfg)
	if err != nil {
		return err
	}
	if _, err := hook.New(ctx, receivers, nil, hook.Config{}); err != nil {
		return fmt.Errorf("hooks.from: %w", err)
	}
	return nil
}

// newReceivers reads the files with the callers' secrets.
func newReceivers(cfg config.Config) (map[string]hook.Receiver, error) {
	out := make(map[string]hook.Receiver, len(cfg.Hooks.From))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Hooks.From)) {
		c := cfg.Hooks.From[name]
		r := hook.Receiver{
			Type: hook.Type(c.Type), Auth: hook.Auth(c.Authentication()), Header: c.Header,
			Upstream: c.Upstream, Hosts: []string{upstreamHost(cfg.Upstreams[c.Upstream].URL)},
			Audience: c.Audience, Account: c.Account, Rate: c.Rate,
			// Google's keys are outside; a URL that the operator writes may be inside.
			KeysURL: c.KeysURL, Keys: upstream.Guarded(c.KeysURL != ""),
		}
		if c.SecretFile != "" {
			data, err := os.ReadFile(c.SecretFile)
			r.Secret = bytes.TrimSpace(data)
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("hooks.from.%s: %w", name, err))
			case len(r.Secret) == 0:
				errs = append(errs, fmt.Errorf("hooks.from.%s: %s holds no secret", name, c.SecretFile))
			}
		}
		out[name] = r
	}
	return out, errors.Join(errs...)
}

// upstreamHost is the name by which payloads call an upstream.
func upstreamHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}
