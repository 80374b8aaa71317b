package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"pratique"
	"pratique/internal/strictyaml"
)

// maxHold is what registry.hold may be at most: containerd 2.3 and later, and
// docker 29, wait 30 seconds for response headers.
const maxHold = 25 * time.Second

// maxHelp bounds refusal.help, in bytes: the events in which people read a
// refusal are cut at 1,024.
const maxHelp = 300

// checker gathers mistakes, each beginning with what set the value.
type checker struct {
	*loader
	errs []error
}

func (c *checker) fail(path, format string, args ...any) {
	c.errs = append(c.errs, errors.New(c.where(path)+": "+fmt.Sprintf(format, args...)))
}

// validate checks what the types do not.
func (l *loader) validate() error {
	c := &checker{loader: l}
	cfg := &l.config
	if cfg.DataDir == "" {
		c.fail("dataDir", "empty; want a directory")
	}
	c.registry(cfg)
	if help := cfg.Refusal.Help; len(help) > maxHelp || strings.ContainsFunc(help, unicode.IsControl) {
		c.fail("refusal.help", "want one line of at most %d bytes", maxHelp)
	}
	c.storage(cfg)
	c.state(cfg)
	for _, key := range slices.Sorted(maps.Keys(cfg.Upstreams)) {
		c.upstream(key, cfg.Upstreams[key])
	}
	if len(cfg.Upstreams) == 0 {
		c.fail("upstreams", "none; nothing could be pulled")
	}
	c.upstreamNames(cfg.Upstreams)
	c.databases(cfg)
	c.scanner(&cfg.Scanner)
	seen := map[string]bool{}
	for i, p := range cfg.Platforms {
		if seen[p.String()] {
			c.fail(fmt.Sprintf("platforms[%d]", i), "%s is there already", p)
		}
		seen[p.String()] = true
	}
	c.policies(cfg.Policies)
	c.evidence(cfg)
	c.notify(&cfg.Notify)
	c.eviction(cfg)
	c.schedules(cfg)
	c.hooks(cfg)
	return errors.Join(c.errs...)
}

func (c *checker) registry(cfg *Config) {
	c.address("registry.listen", cfg.Registry.Listen)
	c.address("admin.listen", cfg.Admin.Listen)
	if cfg.Registry.Listen == cfg.Admin.Listen && !strings.HasSuffix(cfg.Admin.Listen, ":0") {
		c.fail("admin.listen", "%s is registry.listen too; the admin API must not be where clusters pull", cfg.Admin.Listen)
	}
	switch h := cfg.Registry.Hold; {
	case h < 0:
		c.fail("registry.hold", "%s is negative", h)
	case h > maxHold:
		c.fail("registry.hold", "%s is too long: containerd 2.3 and docker 29 give up after 30s without an answer and ask the upstream instead; at most %s", h, maxHold)
	}
	if cfg.Registry.MaxHeld < 1 {
		c.fail("registry.maxHeld", "%d; want at least 1", cfg.Registry.MaxHeld)
	}
	c.notNegative("registry.drain", cfg.Registry.Drain)
	if (cfg.Registry.TLS.Cert == "") != (cfg.Registry.TLS.Key == "") {
		c.fail("registry.tls", "want both cert and key, or neither")
	}
	for i, h := range cfg.Admin.Hosts {
		if !hostPattern.MatchString(strings.ToLower(h)) {
			c.fail(fmt.Sprintf("admin.hosts[%d]", i), "%q is no host name (without a port)", h)
		}
	}
	c.notNegative("cache.tagTTL", cfg.Cache.TagTTL)
	c.notNegative("cache.staleIfError.semver", cfg.Cache.StaleIfError.Semver)
	c.notNegative("cache.staleIfError.latest", cfg.Cache.StaleIfError.Latest)
	c.notNegative("cache.staleIfError.other", cfg.Cache.StaleIfError.Other)
	c.atLeast("cache.maxBlobSize", cfg.Cache.MaxBlobSize, MiB)
}

func (c *checker) notNegative(path string, d time.Duration) {
	if d < 0 {
		c.fail(path, "%s is negative", d)
	}
}

func (c *checker) address(path, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		c.fail(path, "%q: want host:port or :port", addr)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		c.fail(path, "%q: want a port from 0 to 65535", addr)
	}
}

func (c *checker) storage(cfg *Config) {
	if cfg.Storage.Driver != "filesystem" {
		return
	}
	if root, ok := cfg.Storage.Parameters["rootdirectory"].(string); !ok || root == "" {
		c.fail("storage.parameters.rootdirectory", "want a directory")
	}
}

// reservedKeys are first path elements that mean something else: v2 is the API,
// pratique will be where Pratique serves what it makes itself.
var reservedKeys = []string{"v2", "pratique"}

const maxKey = 128

// hostPattern is a host name or IPv4 address in lower case.
var hostPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

func (c *checker) upstream(key string, u Upstream) {
	at := strictyaml.Join("upstreams", key)
	switch {
	case strings.Contains(key, ":"):
		c.fail(at, "a key has no port, because a name in a path cannot; give it an alias such as %q: it is found under its URL's host:port too", strings.NewReplacer(":", "-", ".", "-").Replace(key))
	case strings.ToLower(key) != key:
		c.fail(at, "a key is in lower case, as the names of repositories are")
	case len(key) > maxKey || strings.Contains(key, "/") || !pratique.ValidRepo(key):
		c.fail(at, "want a key such as docker.io or lab: one element of a path, of letters, digits, dots, dashes and underscores")
	case slices.Contains(reservedKeys, key):
		c.fail(at, "%q is reserved; choose another key", key)
	}
	if u.URL == "" {
		c.fail(at, "has no url")
		return
	}
	c.limits(at+".limits", u.Limits)
	parsed := c.url(at+".url", u.URL)
	c.credentials(at+".credentials", u.Credentials)
	if parsed == nil {
		return
	}
	if ip, err := netip.ParseAddr(parsed.Hostname()); err == nil && ip.Unmap().IsLinkLocalUnicast() {
		c.fail(at+".url", "%s is link-local, where clouds have their metadata services; it is never contacted", ip)
		return
	}
	if u.Private {
		return
	}
	if parsed.Scheme == "http" && u.Credentials != (Credentials{}) {
		c.fail(at+".url", "credentials over plain http can be read on the way; use https, or say `private: true`")
	}
	if isPrivate(parsed.Hostname()) {
		c.fail(at+".url", "%s is a private address; say `private: true` if it may be contacted", parsed.Hostname())
	}
}

func (c *checker) limits(at string, l Limits) {
	for key, n := range map[string]int{"transfers": l.Transfers, "requests": l.Requests, "breakAfter": l.BreakAfter} {
		if n < 0 {
			c.fail(at+"."+key, "%d is negative; 0 is the default", n)
		}
	}
	c.notNegative(at+".breakPause", l.BreakPause)
}

// isPrivate recognises addresses written as such. What a name resolves to is
// checked when it is dialled.
func isPrivate(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap()
	carrierNAT := netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	return !ip.IsGlobalUnicast() || ip.IsPrivate() || carrierNAT.Contains(ip)
}

// url accepts scheme://host[:port] and nothing more.
func (c *checker) url(path, text string) *url.URL {
	u, err := url.Parse(text)
	switch {
	case strings.Contains(text, "@"): // before any message that shows the text
		c.fail(path, "holds a user; use credentials")
	case err != nil:
		c.fail(path, "%q: want https://host[:port]", text)
	case u.Scheme != "https" && u.Scheme != "http":
		c.fail(path, "%q: want https:// or http://", text)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
		c.fail(path, "%q: want scheme, host and port only; names of repositories are passed on as they are", text)
	case !validHost(u):
		c.fail(path, "%q: want a host name in lower case or an IP address, and perhaps a port", text)
	default:
		return u
	}
	return nil
}

func validHost(u *url.URL) bool {
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	host := u.Hostname()
	if strings.HasPrefix(u.Host, "[") {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Zone() == ""
	}
	return hostPattern.MatchString(host)
}

func (c *checker) credentials(at string, cr Credentials) {
	var ways []string
	if cr.Username != "" || cr.PasswordFile != "" {
		ways = append(ways, "username and passwordFile")
		if cr.Username == "" || cr.PasswordFile == "" {
			c.fail(at, "want both username and passwordFile")
		}
	}
	if cr.DockerConfig != "" {
		ways = append(ways, "dockerConfig")
	}
	if cr.Keychain != "" {
		ways = append(ways, "keychain")
	}
	if len(ways) > 1 {
		c.fail(at, "want one way to log in, not %s", strictyaml.List(ways, "and"))
	}
}

// upstreamNames refuses that a client's name could mean two upstreams.
func (c *checker) upstreamNames(upstreams map[string]Upstream) {
	owner := map[string]string{}
	for key := range upstreams {
		owner[key] = key
	}
	for _, key := range slices.Sorted(maps.Keys(upstreams)) {
		for _, name := range hostNames(upstreams[key].URL) {
			if other, ok := owner[name]; ok && other != key {
				c.fail("upstreams."+key+".url", "clients that ask for %q may mean upstream %q too; one name leads to one upstream", name, other)
				break
			}
			owner[name] = key
		}
	}
}

// hostNames are what a mirror may be asked for with ?ns= when an upstream at
// this URL is meant: host:port, and host alone when the port is the scheme's.
func hostNames(text string) []string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil // reported by url
	}
	standard := map[string]string{"https": "443", "http": "80"}[u.Scheme]
	port := u.Port()
	if port == "" {
		port = standard
	}
	names := []string{net.JoinHostPort(u.Hostname(), port)}
	if port == standard {
		names = append(names, strings.TrimSuffix(names[0], ":"+port))
	}
	return names
}

func (c *checker) databases(cfg *Config) {
	if cfg.Database.Path == "" && len(cfg.Database.Sources) == 0 {
		c.fail("database", "neither path nor sources: without a database nothing can be scanned, so nothing would be served")
	}
	if cfg.Database.Refresh < time.Minute {
		c.fail("database.refresh", "%s; want at least 1m", cfg.Database.Refresh)
	}
	c.artifacts("database.sources", cfg.Database.Sources)
	c.artifacts("javaDatabase.sources", cfg.JavaDatabase.Sources)
}

func (c *checker) artifacts(path string, sources []string) {
	for i, s := range sources {
		if _, err := pratique.ParseRef(s); err != nil {
			c.fail(fmt.Sprintf("%s[%d]", path, i), "%q: want HOST/REPOSITORY:TAG", s)
		}
	}
}

func (c *checker) scanner(s *Scanner) {
	if s.Workers < 0 {
		c.fail("scanner.workers", "%d is negative; 0 is one for each CPU", s.Workers)
	}
	c.atLeast("scanner.memory", s.Memory, 128*MiB)
	if s.Timeout < time.Second {
		c.fail("scanner.timeout", "%s; want at least 1s", s.Timeout)
	}
	c.atLeast("scanner.maxLayerSize", s.MaxLayerSize, MiB)
	c.atLeast("scanner.tempDisk", s.TempDisk, MiB)
}

func (c *checker) atLeast(path string, size, least Size) {
	if size < least {
		c.fail(path, "%s; want at least %s", size, least)
	}
}

func (c *checker) policies(files []string) {
	if _, given := c.positions["policies"]; len(files) == 0 && (given || c.sources["policies"] != "") {
		c.fail("policies", "an empty list; leave the key out to have the embedded default policy")
	}
	seen := map[string]bool{}
	for i, f := range files {
		at := fmt.Sprintf("policies[%d]", i)
		switch {
		case f == "":
			c.fail(at, "empty; want a file")
		case seen[f]:
			c.fail(at, "%s is there already", f)
		}
		seen[f] = true
	}
}
