package upstream

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Keychain returns the clients' credentials for what is fetched besides images, as
// Transport is their connections: to a host that one of the clients is configured
// for, with the same scheme, and to no other. Everybody else is anonymous to it.
func Keychain(clients ...*Client) authn.Keychain {
	k := keychain{}
	for _, c := range clients {
		k[c.base.Scheme+"://"+c.base.Host] = c
		if c.base.Scheme == "https" && (c.base.Host == "docker.io" || strings.HasSuffix(c.base.Host, ".docker.io")) {
			k["https://index.docker.io"] = c // its name in references
		}
	}
	return k
}

type keychain map[string]*Client // by scheme://host[:port]

// Resolve implements authn.Keychain.
func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain. Credentials that cannot be read
// are an error: an anonymous request would fail for a reason that misleads.
func (k keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	schemed, ok := r.(interface{ Scheme() string })
	if !ok {
		return authn.Anonymous, nil
	}
	c, ok := k[schemed.Scheme()+"://"+r.RegistryStr()]
	if !ok && schemed.Scheme() == "http" && besides(r.RegistryStr()) {
		c, ok = k["https://"+r.RegistryStr()]
	}
	if !ok {
		return authn.Anonymous, nil
	}
	cfg, err := c.auth.creds.get(ctx)
	if err != nil {
		return nil, err
	}
	if cfg == (authn.AuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(cfg), nil
}

// besides reports whether go-containerregistry says http of a host at a private
// address that it asks by https first. The credentials of an upstream with https do
// not travel without it even so: Transport dials such an address only for the URL
// that is configured.
func besides(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && (addr.IsLoopback() || addr.IsPrivate())
}
