package config

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// redisSchemes are how an address of Redis may begin.
var redisSchemes = []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}

// prefixPattern keeps hash tags and patterns out of keys.
var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

const maxSkew = 5 * time.Second

// state checks what does not need the server.
func (c *checker) state(cfg *Config) {
	s := &cfg.State
	if s.FailureAge <= 0 {
		c.fail("state.failureAge", "%s; want more than 0s, or failure: refuse", s.FailureAge)
	}
	if cfg.Storage.Driver == "filesystem" || cfg.Storage.Driver == "inmemory" {
		if cfg.Storage.Redirect {
			c.fail("storage.redirect", "the driver %s has no addresses that clients could be sent to; use s3, gcs or azure", cfg.Storage.Driver)
		}
		if cfg.Storage.Hot.MaxSize > 0 {
			c.fail("storage.hot.maxSize", "the driver %s is local already; leave it 0", cfg.Storage.Driver)
		}
	}
	r := &s.Redis
	if r.URL == "" {
		if *r != (Redis{Prefix: r.Prefix, Skew: r.Skew}) {
			c.fail("state.redis", "has no url")
		}
		return
	}
	if cfg.Storage.Driver == "inmemory" {
		c.fail("storage.driver", "inmemory is of one process, and state.redis of several; use an object store")
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil: // in words of ours: err shows what may be a password
		c.fail("state.redis.url", "is no URL")
	case !slices.Contains(redisSchemes, u.Scheme):
		c.fail("state.redis.url", "scheme %q; want one of %s", u.Scheme, strings.Join(redisSchemes, ", "))
	case u.User != nil:
		c.fail("state.redis.url", "has a user or password in it; use username and passwordFile")
	case u.Host == "":
		c.fail("state.redis.url", "has no host")
	case strings.HasSuffix(u.Scheme, "+sentinel") && strings.Trim(u.Path, "/") == "":
		c.fail("state.redis.url", "does not name the master: %s://%s/MASTER", u.Scheme, u.Host)
	}
	if r.Username != "" && r.PasswordFile == "" {
		c.fail("state.redis.passwordFile", "missing; username needs it")
	}
	if (r.Cert == "") != (r.Key == "") {
		c.fail("state.redis", "want both cert and key, or neither")
	}
	if !prefixPattern.MatchString(r.Prefix) {
		c.fail("state.redis.prefix", "%q; want at most 64 letters, digits, dots, dashes and underscores", r.Prefix)
	}
	if r.Skew < 0 || r.Skew > maxSkew {
		c.fail("state.redis.skew", "%s; want 0s to %s", r.Skew, maxSkew)
	}
}
