package main

import (
	"context"
	"net/http"
	"reflect"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/prometheus/client_golang/prometheus"

	"pratique/internal/config"
	"pratique/proxy"
	"pratique/proxy/upstream"
)

// upstreams are the clients of the configured registries and the index of their
// names, outside of which nothing is ever dialled.
type upstreams struct {
	cfg     map[string]config.Upstream
	clients map[string]*upstream.Client
	names   *proxy.UpstreamIndex
}

// newUpstreams makes a client for each upstream. One whose configuration is the
// same as in old is kept, with what it knows: tokens, what the upstream asked us
// to wait for. A certificate's file may have changed under its name.
func newUpstreams(cfg config.Config, old *upstreams, metrics prometheus.Registerer) (*upstreams, error) {
	u := &upstreams{cfg: cfg.Upstreams, clients: make(map[string]*upstream.Client, len(cfg.Upstreams))}
	urls := make(map[string]string, len(cfg.Upstreams))
	for key, c := range cfg.Upstreams {
		urls[key] = c.URL
		if old != nil && c.CA == "" && reflect.DeepEqual(old.cfg[key], c) {
			u.clients[key] = old.clients[key]
			continue
		}
		client, err := upstream.New(key, upstreamConfig(c, metrics))
		if err != nil {
			return nil, err
		}
		u.clients[key] = client
	}
	var err error
	u.names, err = proxy.NewUpstreamIndex(urls)
	return u, err
}

func upstreamConfig(u config.Upstream, metrics prometheus.Registerer) upstream.Config {
	return upstream.Config{
		URL:     u.URL,
		Private: u.Private,
		CAFile:  u.CA,
		Credentials: upstream.Credentials{
			Username: u.Credentials.Username, PasswordFile: u.Credentials.PasswordFile,
			DockerConfig: u.Credentials.DockerConfig, Keychain: string(u.Credentials.Keychain),
		},
		MinSpeed:     int64(u.Limits.MinSpeed),
		MaxTransfers: u.Limits.Transfers,
		MaxRequests:  u.Limits.Requests,
		BreakAfter:   u.Limits.BreakAfter,
		BreakPause:   u.Limits.BreakPause,
		UserAgent:    "pratique/" + readVersion().Version,
		Metrics:      metrics,
	}
}

func (u *upstreams) byKey() map[string]proxy.Upstream {
	out := make(map[string]proxy.Upstream, len(u.clients))
	for key, c := range u.clients {
		out[key] = c
	}
	return out
}

// transport is for the sources of databases: it holds them to the same rule
// about addresses.
func (u *upstreams) transport() http.RoundTripper {
	clients := make([]*upstream.Client, 0, len(u.clients))
	for _, c := range u.clients {
		clients = append(clients, c)
	}
	return upstream.Transport(clients...)
}

// keychain is for the same: what is configured for an upstream is shown to it,
// whatever else is known for its host.
func (u *upstreams) keychain() authn.Keychain {
	clients := make([]*upstream.Client, 0, len(u.clients))
	for _, c := range u.clients {
		clients = append(clients, c)
	}
	return authn.NewMultiKeychain(upstream.Keychain(clients...), authn.DefaultKeychain)
}

// fetcher fetches as the upstreams in use do: a round tripper and a keychain that
// can be replaced.
type fetcher struct {
	current atomic.Pointer[fetching]
}

type fetching struct {
	transport http.RoundTripper
	keychain  authn.Keychain
}

func (f *fetcher) use(u *upstreams) { f.current.Store(&fetching{u.transport(), u.keychain()}) }

// RoundTrip implements http.RoundTripper.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	return f.current.Load().transport.RoundTrip(r)
}

// Resolve implements authn.Keychain.
func (f *fetcher) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return f.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (f *fetcher) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	return authn.Resolve(ctx, f.current.Load().keychain, r)
}
