package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"pratique/internal/strictyaml"
)

// notify checks who is told what happens.
func (c *checker) notify(n *Notify) {
	if u, err := url.Parse(n.Name); err != nil || n.Name == "" || u.String() != n.Name {
		c.fail("notify.name", "%q: want a URI or a path, such as pratique or https://registry.example.com", n.Name)
	}
	if u, err := url.Parse(n.Link); n.Link != "" && (err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http") {
		c.fail("notify.link", "%q: want https://host, where people reach the admin address", n.Link)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Sinks)) {
		at := strictyaml.Join("notify.sinks", name)
		if !identityPattern.MatchString(name) {
			c.fail(at, "want a name of at most 63 letters, digits, dots, dashes and underscores")
		}
		c.sink(at, n.Sinks[name])
	}
}

// sink checks one. No message shows its URL.
func (c *checker) sink(at string, s Sink) {
	u, err := url.Parse(s.URL)
	switch {
	case s.URL == "":
		c.fail(at, "has no url")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		c.fail(at+".url", "want https://host/path")
	case u.User != nil:
		c.fail(at+".url", "holds a user; receivers are shown who sends by secretFile")
	case isLinkLocal(u.Hostname()):
		c.fail(at+".url", "is link-local, where clouds have their metadata services; it is never contacted")
	case s.Private:
	case isPrivate(u.Hostname()):
		c.fail(at+".url", "is a private address; say `private: true` if it may be contacted")
	case u.Scheme == "http":
		c.fail(at+".url", "plain http can be read and changed on the way; use https, or say `private: true`")
	}
	if (s.Format == SinkTemplate) != (s.Template != "") {
		c.fail(at+".template", "want a file for format template, and for no other")
	}
	for key, globs := range map[string][]string{"types": s.Types, "repositories": s.Repositories} {
		for i, g := range globs {
			if g == "" || strings.ContainsAny(g, " \t\n") {
				c.fail(fmt.Sprintf("%s.%s[%d]", at, key, i), "%q: want a glob", g)
			}
		}
	}
}

func isLinkLocal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLinkLocalUnicast()
}
