package upstream

import (
	"net"
	"net/http"
	"time"
)

// Transport returns a round tripper for what is fetched over HTTP besides
// images: the vulnerability databases. It is held to the same rule about
// addresses: a host that one of the clients is configured for is dialled as
// that upstream is (its addresses, its certificate authority), any other host
// only at public addresses, after redirects and for token realms too. Like
// upstreams, it obeys no HTTPS_PROXY.
func Transport(clients ...*Client) http.RoundTripper {
	r := router{byHost: make(map[string]http.RoundTripper), other: publicTransport()}
	for _, c := range clients {
		r.byHost[c.base.Scheme+"://"+c.base.Host] = c.http.Transport
	}
	return r
}

// router chooses the transport by what is asked for. The choice is made again
// for every redirect, because each is a request of its own.
type router struct {
	byHost map[string]http.RoundTripper // by scheme://host[:port]
	other  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r router) RoundTrip(req *http.Request) (*http.Response, error) {
	if t, ok := r.byHost[req.URL.Scheme+"://"+req.URL.Host]; ok {
		return t.RoundTrip(req)
	}
	return r.other.RoundTrip(req)
}

func publicTransport() http.RoundTripper {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, ControlContext: guard(false)}
	return &http.Transport{
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          8,
		IdleConnTimeout:       90 * time.Second,
	}
}
