package config

// The keys of what happens by itself: at set times, and when a registry calls.

// Schedule is one thing that is done at set times.
type Schedule struct {
	// Cron says when: minute, hour, day of month, month, day of week (`0 2 * * *`),
	// or @daily, @hourly, @every 6h. Times are UTC, unless CRON_TZ=Europe/Berlin
	// stands in front.
	Cron string `yaml:"cron"`
	// Do says what. `rescan`: images are scanned again; `revalidate`: tags known here
	// are asked for upstream; `prefetch`: tags of the upstream are fetched, scanned
	// and decided before anybody pulls them; `evict`: the cache is brought to its
	// limits; `full-pass`: everything is matched again and held against what stands.
	Do ScheduleAction `yaml:"do"`
	// Match are globs on UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG:
	// docker.io/library/nginx:1.*. Needed for prefetch, where neither upstream nor
	// repository may hold a wildcard; if empty, all. Not for evict and full-pass.
	Match []string `yaml:"match"`
}

// Hooks are webhooks of registries.
type Hooks struct {
	// Listen is an address of their own for webhooks, as host:port, so that the admin
	// listener stays closed to registries. If empty, they arrive at the admin listener.
	Listen string `yaml:"listen"`
	// TLS serves that address over HTTPS. If missing, plain HTTP: secrets that callers
	// show can then be read on the way.
	TLS TLS `yaml:"tls"`
	// Prefetch are globs on UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG: what is
	// pushed there is fetched, scanned and decided before anybody pulls it. What is
	// known here already is so in any case.
	Prefetch []string `yaml:"prefetch"`
	// From are the callers by name: a registry calls POST /hooks/NAME.
	From map[string]Hook `yaml:"from"`
}

// Hook is one caller of webhooks.
type Hook struct {
	// Type of payloads: `dockerhub`, `harbor`, `ghcr`, `quay`, `acr`, `distribution`
	// (`gitlab` is the same), `ecr`, `artifact-registry`, `jfrog` or `cloudevents`.
	Type HookType `yaml:"type"`
	// Upstream is the key under upstreams of the registry that calls.
	Upstream string `yaml:"upstream"`
	// SecretFile is a file with the secret that the caller shows; white space around
	// it is ignored. What it is for depends on Auth.
	SecretFile string `yaml:"secretFile"`
	// Auth is how a caller proves who it is. `hmac`: X-Hub-Signature-256 over the body
	// (ghcr); `header`: the secret is the value of Header; `path`: the caller posts to
	// /hooks/NAME/SECRET (dockerhub, quay); `oidc`: a token of Google's that names
	// Audience and Account (artifact-registry). If empty, what fits Type: hmac for
	// ghcr, path for dockerhub and quay, oidc for artifact-registry, header for the
	// others.
	Auth HookAuth `yaml:"auth"`
	// Header that holds the secret, for auth `header`. If empty, Authorization.
	Header string `yaml:"header"`
	// Audience is that of the caller's OIDC token, for auth `oidc`.
	Audience string `yaml:"audience"`
	// Account is the e-mail address of the service account that signs the token, for
	// auth `oidc`.
	Account string `yaml:"account"`
	// KeysURL is where the keys are had that sign such tokens. If empty, Google's
	// https://www.googleapis.com/oauth2/v3/certs.
	KeysURL string `yaml:"keysURL"`
	// Rate is how many calls a minute are taken; more are answered with 429. 0 is 600.
	Rate int `yaml:"rate"`
}
