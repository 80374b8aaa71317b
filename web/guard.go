package web

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// guard stands before everything on the admin listener.
//
// Host: a page of evil.example whose name is made to resolve to 127.0.0.1
// reaches the listener with Host: evil.example, and for the browser it is the
// page's own site. So the Host header must be an IP address (nobody can make a
// name out of one), localhost, or a configured name. The two probes are exempt:
// they tell nothing that a port scan does not, and orchestrators name them as
// they like.
//
// Origin: http.CrossOriginProtection refuses unsafe methods that a browser sends
// for another site; here that goes for every method under /api and /debug,
// because a check fetches and scans an image and a profile costs CPU.
func guard(hosts []string, next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
		if !probe && !knownHost(r.Host, hosts) {
			writeError(w, &apiError{
				status:  http.StatusMisdirectedRequest,
				message: fmt.Sprintf("host %q is not served here", r.Host),
				hint:    "use the IP address or localhost, or add the name to admin.hosts in the configuration",
			})
			return
		}
		if err := cross.Check(r); err != nil || crossSite(r) {
			writeError(w, &apiError{
				status:  http.StatusForbidden,
				message: "request sent by another web site",
				hint:    "use the pratique command or open the admin address itself",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// beside lets registries through to hooks, by whatever name they call and without
// the guard, which is about people's browsers: each call there shows a secret. What
// hooks gets goes nowhere else, however its path is spelt, and its path, which may
// hold the secret, is in no log line of this package.
func beside(hooks, next http.Handler) http.Handler {
	if hooks == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/hooks/") {
			hooks.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// crossSite reports whether a browser says that another site made it send a
// request for the API or a profile.
func crossSite(r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, "/debug/") {
		return false
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return true
}

// knownHost tells whether a Host header, with or without port, is one that may
// be asked for.
func knownHost(host string, hosts []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(strings.Trim(name, "[]")), ".")
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if name == "localhost" {
		return true
	}
	return slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

// allowed turns ServeMux's plain-text 405 into the API's own error form.
func allowed(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var allow []string
		if _, pattern := mux.Handler(r); pattern == "/api/" {
			for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				probe := r.Clone(r.Context())
				probe.Method = m
				if _, p := mux.Handler(probe); p != "/api/" {
					allow = append(allow, m)
				}
			}
		}
		if len(allow) > 0 {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			writeError(w, &apiError{
				status:  http.StatusMethodNotAllowed,
				message: fmt.Sprintf("%s %s is not supported", r.Method, r.URL.Path),
				hint:    "use " + strings.Join(allow, " or "),
			})
			return
		}
		mux.ServeHTTP(w, r)
	})
}
