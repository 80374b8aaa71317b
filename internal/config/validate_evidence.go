package config

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"pratique/internal/strictyaml"
)

// evidence checks what rules may read besides reports.
func (c *checker) evidence(cfg *Config) {
	c.notNegative("watch", cfg.Watch)
	if cfg.Watch > 0 && cfg.Watch < time.Second {
		c.fail("watch", "%s; want at least 1s, or 0s to never look", cfg.Watch)
	}
	c.notNegative("exceptions.maxDuration", cfg.Exceptions.MaxDuration)
	c.files("exceptions.files", cfg.Exceptions.Files)
	c.files("vex.files", cfg.VEX.Files)
	if cfg.Exploits.Refresh < time.Minute {
		c.fail("exploits.refresh", "%s; want at least 1m", cfg.Exploits.Refresh)
	}
	c.list("exploits.kev", cfg.Exploits.KEV)
	c.list("exploits.epss", cfg.Exploits.EPSS)
	if cfg.History.Retention < time.Hour {
		c.fail("history.retention", "%s; want at least 1h", cfg.History.Retention)
	}
	c.trust(cfg)
}

// files refuses empty names and ones that are there twice.
func (c *checker) files(path string, names []string) {
	seen := map[string]bool{}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case name == "":
			c.fail(at, "empty; want a file")
		case seen[name]:
			c.fail(at, "%s is there already", name)
		}
		seen[name] = true
	}
}

// list checks the place of a list: a file, or an https URL.
func (c *checker) list(path, place string) {
	scheme, _, ok := strings.Cut(place, "://")
	if !ok {
		return
	}
	u, err := url.Parse(place)
	switch {
	case err != nil || u.Host == "":
		c.fail(path, "%q: want a file, or https://host/path", place)
	case u.User != nil:
		c.fail(path, "holds a user, which would stand in logs; fetch the list with something that logs in, and name the file")
	case scheme != "https" && (scheme != "http" || !isPrivate(u.Hostname())):
		c.fail(path, "%q: want https://; over plain http anybody on the way could empty the list", place)
	}
}

// identityPattern keeps names fit for messages and for lists in rules.
var identityPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (c *checker) trust(cfg *Config) {
	if cfg.Trust.Recheck < time.Minute {
		c.fail("trust.recheck", "%s; want at least 1m", cfg.Trust.Recheck)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Trust.Identities)) {
		c.identity(strictyaml.Join("trust.identities", name), name, cfg)
	}
	for i, name := range cfg.VEX.SignedBy {
		if _, ok := cfg.Trust.Identities[name]; !ok {
			c.fail(fmt.Sprintf("vex.signedBy[%d]", i), "no identity %q in trust.identities%s", name,
				strictyaml.Suggest(name, slices.Sorted(maps.Keys(cfg.Trust.Identities))))
		}
	}
}

func (c *checker) identity(at, name string, cfg *Config) {
	if !identityPattern.MatchString(name) {
		c.fail(at, "want a name of at most 63 letters, digits, dots, dashes and underscores")
	}
	id := cfg.Trust.Identities[name]
	var ways []string
	if id.Key != "" {
		ways = append(ways, "key")
	}
	if id.Sigstore != (SigstoreIdentity{}) {
		ways = append(ways, "sigstore")
		if id.Sigstore.Issuer == "" || id.Sigstore.Subject == "" {
			c.fail(at+".sigstore", "want both issuer and subject: with one of them alone anybody could sign")
		}
		if strings.Trim(id.Sigstore.Subject, "*?/") == "" && id.Sigstore.Subject != "" {
			c.fail(at+".sigstore.subject", "%q fits everybody whom the issuer knows; name somebody", id.Sigstore.Subject)
		}
		if cfg.Trust.TrustedRoot == "" {
			c.fail(at+".sigstore", "keyless signatures need trust.trustedRoot, a file with Sigstore's authorities and logs")
		}
	}
	if len(id.Notation.CA) > 0 || len(id.Notation.TSA) > 0 || len(id.Notation.Subjects) > 0 {
		ways = append(ways, "notation")
		if len(id.Notation.CA) == 0 {
			c.fail(at+".notation", "want ca: the authorities that are believed")
		}
	}
	if len(ways) != 1 {
		got := "none of them"
		if len(ways) > 1 {
			got = strictyaml.List(ways, "and")
		}
		c.fail(at, "want exactly one of key, sigstore and notation, not %s", got)
	}
}
