package upstream

import (
	"net"
	"net/http"
	"time"
)

// Guarded is a transport for other addresses that operators configure, held to the
// same rule: the public ones, with private the ones inside as well, and never those
// of metadata services. It uses no proxy, which would dial for it.
func Guarded(private bool) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, ControlContext: guard(private)}
	return &http.Transport{
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          2,
		IdleConnTimeout:       90 * time.Second,
	}
}
