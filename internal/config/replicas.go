package config

import "time"

// State has exactly one backend: Redis if it has a URL, else SQLite.
type State struct {
	// SQLite is one file on a local disk, of one process.
	SQLite SQLite `yaml:"sqlite"`
	// Redis is shared by any number of replicas; storage.driver is to be an object
	// store, or a directory that all of them share.
	Redis Redis `yaml:"redis"`
	// Failure is what pulls meet while Redis does not answer. `serve-last`: images
	// that this replica decided on before get the same decision as long as the report
	// behind it is younger than failureAge, all others get 503 with Retry-After.
	// `refuse`: all get 503.
	Failure FailureMode `yaml:"failure"`
	// FailureAge is how old the report behind a decision may be that serve-last gives
	// again.
	FailureAge time.Duration `yaml:"failureAge"`
}

// SQLite is the embedded backend of the state.
type SQLite struct {
	// Path of the database file, on a local file system. If empty, `state.db` in
	// dataDir.
	Path string `yaml:"path"`
}

// Redis is the backend of the state that replicas share. Version 7 or later.
type Redis struct {
	// URL is redis://HOST:PORT/DATABASE, or rediss:// with TLS. Several hosts,
	// separated by commas: redis+sentinel://HOST:26379,HOST:26379/MASTER and
	// redis+cluster://HOST:6379,HOST:6379, with TLS rediss+sentinel and
	// rediss+cluster. No password in it: passwordFile.
	URL string `yaml:"url"`
	// Username of an ACL user; needs passwordFile.
	Username string `yaml:"username"`
	// PasswordFile is a file with the password; white space around it is ignored.
	PasswordFile string `yaml:"passwordFile"`
	// SentinelPasswordFile is the same for the sentinels, where they want one.
	SentinelPasswordFile string `yaml:"sentinelPasswordFile"`
	// CA is a file with certificates, PEM, that are trusted instead of the system's.
	CA string `yaml:"ca"`
	// Cert is a file with a client certificate, PEM.
	Cert string `yaml:"cert"`
	// Key is a file with its private key, PEM.
	Key string `yaml:"key"`
	// Prefix begins every key, so that several installations may share a server.
	Prefix string `yaml:"prefix"`
	// Skew is how far the clocks of replicas may be apart: the scans of a replica
	// that died are taken over so much later. At most 5s.
	Skew time.Duration `yaml:"skew"`
}

// FailureMode is what happens while the state does not answer.
type FailureMode string

// Modes of state.failure.
const (
	FailureServeLast FailureMode = "serve-last"
	FailureRefuse    FailureMode = "refuse"
)

// UnmarshalText accepts the modes only.
func (m *FailureMode) UnmarshalText(b []byte) error {
	return word(m, b, FailureServeLast, FailureRefuse)
}

// Hot is a cache on a local disk in front of an object store.
type Hot struct {
	// MaxSize is how many bytes it may take; the layers that were pulled least
	// recently go first. 0 keeps none.
	MaxSize Size `yaml:"maxSize"`
	// Dir is where. If empty, `hot` in dataDir.
	Dir string `yaml:"dir"`
}
