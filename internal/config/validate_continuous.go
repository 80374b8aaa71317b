package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/robfig/cron/v3"

	"pratique"
	"pratique/internal/strictyaml"
)

// patterns checks globs on images; literal says that each must name its repository.
func (c *checker) patterns(at string, texts []string, literal bool) {
	for i, s := range texts {
		p, err := pratique.ParsePattern(s)
		if err != nil {
			c.fail(fmt.Sprintf("%s[%d]", at, i), "%s", err)
			continue
		}
		if _, ok := p.Literal(); literal && !ok {
			c.fail(fmt.Sprintf("%s[%d]", at, i), "%q: name one repository; only the tag may be a glob, because an upstream is not asked for everything that it has", s)
		}
	}
}

// schedules checks what is done at set times.
func (c *checker) schedules(cfg *Config) {
	for _, name := range slices.Sorted(maps.Keys(cfg.Schedules)) {
		s, at := cfg.Schedules[name], strictyaml.Join("schedules", name)
		if !identityPattern.MatchString(name) {
			c.fail(at, "want a name of at most 63 letters, digits, dots, dashes and underscores")
		}
		if _, err := ParseCron(s.Cron); err != nil {
			c.fail(at+".cron", "%s", err)
		}
		switch {
		case s.Do == "":
			c.fail(at+".do", "missing; want rescan, revalidate, prefetch, evict or full-pass")
		case s.Do == DoPrefetch && len(s.Match) == 0:
			c.fail(at+".match", "missing; say what to prefetch, such as docker.io/library/nginx:1.*")
		case (s.Do == DoEvict || s.Do == DoFullPass) && len(s.Match) > 0:
			c.fail(at+".match", "%s is about everything; leave match out", s.Do)
		}
		c.patterns(at+".match", s.Match, s.Do == DoPrefetch)
		for i, text := range s.Match {
			c.known(fmt.Sprintf("%s.match[%d]", at, i), text, cfg, s.Do == DoPrefetch)
		}
	}
}

// ParseCron reads the times of a schedule; times are UTC unless it says otherwise.
func ParseCron(text string) (cron.Schedule, error) {
	if text == "" {
		return nil, fmt.Errorf("%w schedule: empty; want five fields, such as 0 2 * * *, or @daily", pratique.ErrInvalid)
	}
	spec := text
	if !strings.HasPrefix(text, "TZ=") && !strings.HasPrefix(text, "CRON_TZ=") {
		spec = "CRON_TZ=UTC " + text
	}
	s, err := cron.ParseStandard(spec)
	if err != nil {
		return nil, fmt.Errorf("%w schedule %q: %w; want five fields (minute hour day month weekday), such as 0 2 * * *, or @daily", pratique.ErrInvalid, text, err)
	}
	return s, nil
}

// known checks that the upstream that a pattern names is configured.
func (c *checker) known(at, text string, cfg *Config, literal bool) {
	key, _, _ := strings.Cut(text, "/")
	if _, ok := cfg.Upstreams[key]; !ok && (literal || !strings.ContainsAny(key, "*?")) {
		c.fail(at, "%q: no upstream has the key %q", text, key)
	}
}

// hooks checks who may call.
func (c *checker) hooks(cfg *Config) {
	h := &cfg.Hooks
	if h.Listen != "" {
		c.address("hooks.listen", h.Listen)
		if h.Listen == cfg.Registry.Listen && !strings.HasSuffix(h.Listen, ":0") {
			c.fail("hooks.listen", "%s is registry.listen too; want an address of its own, or none", h.Listen)
		}
	}
	if (h.TLS.Cert == "") != (h.TLS.Key == "") {
		c.fail("hooks.tls", "want both cert and key, or neither")
	}
	if h.TLS.Cert != "" && h.Listen == "" {
		c.fail("hooks.tls", "is for hooks.listen, which is empty")
	}
	c.patterns("hooks.prefetch", h.Prefetch, false)
	for _, name := range slices.Sorted(maps.Keys(h.From)) {
		c.hook(strictyaml.Join("hooks.from", name), name, h.From[name], cfg)
	}
}

func (c *checker) hook(at, name string, h Hook, cfg *Config) {
	if !identityPattern.MatchString(name) {
		c.fail(at, "want a name of at most 63 letters, digits, dots, dashes and underscores")
	}
	if h.Type == "" {
		c.fail(at+".type", "missing; want dockerhub, harbor, ghcr, quay, acr, distribution, gitlab, ecr, artifact-registry, jfrog or cloudevents")
		return
	}
	if _, ok := cfg.Upstreams[h.Upstream]; !ok {
		c.fail(at+".upstream", "%q: no upstream has that key", h.Upstream)
	}
	if h.Rate < 0 {
		c.fail(at+".rate", "%d is negative", h.Rate)
	}
	auth := h.Authentication()
	if (auth == HookOIDC) == (h.SecretFile != "") {
		c.fail(at+".secretFile", "want a file with the secret that the caller shows, but for auth oidc; a hook without a secret would be anybody's")
	}
	if (auth == HookOIDC) != (h.Audience != "") {
		c.fail(at+".audience", "want the audience of the caller's tokens for auth oidc, and for no other")
	}
	if (auth == HookOIDC) != (h.Account != "") {
		c.fail(at+".account", "want the service account that signs for auth oidc, and for no other: without it every user of that cloud could call")
	}
	if h.KeysURL != "" && auth != HookOIDC {
		c.fail(at+".keysURL", "is for auth oidc")
	}
	if h.Header != "" && auth != HookHeader {
		c.fail(at+".header", "is for auth header")
	}
}

// eviction checks the limits of the cache.
func (c *checker) eviction(cfg *Config) {
	if cfg.Cache.MaxSize < 0 {
		c.fail("cache.maxSize", "%d is negative", cfg.Cache.MaxSize)
	}
	c.notNegative("cache.unusedFor", cfg.Cache.UnusedFor)
	c.patterns("cache.pins", cfg.Cache.Pins, false)
}
