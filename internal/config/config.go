// Package config reads Pratique's configuration: one YAML file, environment
// variables and flags, in that order of increasing weight, over defaults that
// run without any of them.
//
// Its structs are the operator's manual: docs/configuration.md is made from the
// comments below, and configs/pratique.yaml shows every key. It checks all that
// can be known without touching the machine (a misspelt key, a hold that clients
// would not wait for, two upstreams with one name), so that `pratique config
// check` says the same on a laptop as in the cluster; whether a file exists is
// found out when it is opened.
package config

import "time"

// Config is everything that an operator can set. Get one from Load or Default:
// the zero Config is not valid.
type Config struct {
	// DataDir is the directory of what has no place of its own: adopted
	// databases, the workers' temporary files, and, unless they are set,
	// storage.parameters.rootdirectory (`blobs` in it) and state.sqlite.path
	// (`state.db` in it). Like every path it may be relative to the working
	// directory.
	DataDir string `yaml:"dataDir"`
	// Registry is the listener that clusters pull from.
	Registry Registry `yaml:"registry"`
	// Refusal is how an image is refused.
	Refusal Refusal `yaml:"refusal"`
	// Admin is the listener for people and monitoring: API, health, metrics.
	Admin Admin `yaml:"admin"`
	// Storage is where the bytes of manifests and layers are kept.
	Storage Storage `yaml:"storage"`
	// State is where everything but those bytes is kept: what was found in which
	// image, reports, queue.
	State State `yaml:"state"`
	// Cache is how long a tag is believed without asking its upstream, and what is
	// too large to be kept.
	Cache Cache `yaml:"cache"`
	// Upstreams are the registries that may be pulled from, and the only ones
	// that are ever contacted for images. A key is the first element of an
	// image's name (host:5000/docker.io/library/nginx) and the value of ?ns= that
	// mirrors are asked with: one path element in lower case, without a port. An
	// upstream is found under its URL's host, or host:port, too. A file that has
	// this key replaces the default, which is Docker Hub alone.
	Upstreams map[string]Upstream `yaml:"upstreams"`
	// Database is the vulnerability database.
	Database Database `yaml:"database"`
	// JavaDatabase identifies .jar files that do not say what they are.
	JavaDatabase JavaDatabase `yaml:"javaDatabase"`
	// Scanner is how layers are analysed. Each limit holds for one layer, which
	// one worker process reads; a layer that breaks a limit makes a failed or
	// incomplete scan, which the shipped policy refuses.
	Scanner Scanner `yaml:"scanner"`
	// Platforms are scanned when an index is pulled, as os/architecture[/variant],
	// the most wanted first. Other platforms of an index are scanned when somebody
	// asks for them. An empty list means all of them.
	Platforms []Platform `yaml:"platforms"`
	// Policies are the policy files in force, all of them together: what one
	// refuses is refused. If missing, the embedded configs/policies/default.yaml.
	Policies []string `yaml:"policies"`
	// Watch is how often policy and exception files are looked at; when one
	// changed, it is applied as by SIGHUP. 0s never looks.
	Watch time.Duration `yaml:"watch"`
	// Exceptions lift findings or rules for some images until they expire.
	Exceptions Exceptions `yaml:"exceptions"`
	// VEX are statements of vendors about vulnerabilities in their products.
	VEX VEX `yaml:"vex"`
	// Exploits are lists of what is exploited, for rules with `kev` and `epss`.
	Exploits Exploits `yaml:"exploits"`
	// Trust names the identities whose signatures and attestations are believed.
	Trust Trust `yaml:"trust"`
	// History is the record of who pulled what.
	History History `yaml:"history"`
	// Schedules are what is done at set times, by name. A file that has this key
	// replaces the default, which is one full pass a week.
	Schedules map[string]Schedule `yaml:"schedules"`
	// Hooks are webhooks of registries that tell of pushes.
	Hooks Hooks `yaml:"hooks"`
	// Notify tells others what happens: refusals, verdicts that changed, graces and
	// exceptions that end (docs/events.md).
	Notify Notify `yaml:"notify"`
	// Log is what Pratique writes to standard error.
	Log Log `yaml:"log"`
}

// Registry is the listener that clusters pull from.
type Registry struct {
	// Listen is the address of the pull API, as host:port or :port.
	Listen string `yaml:"listen"`
	// Hold is how long a pull of an image that is still being scanned is kept
	// waiting before it is answered with 429 and Retry-After; the scan goes on. At
	// most 25s: containerd 2.3 and docker 29 give up after 30 seconds without an
	// answer and go elsewhere. 0s answers at once.
	Hold time.Duration `yaml:"hold"`
	// MaxHeld is how many requests may wait for a scan at the same time; more
	// are answered with 429 at once.
	MaxHeld int `yaml:"maxHeld"`
	// Drain is how long running requests and transfers may take to finish when the
	// process is told to stop; new ones are answered with 503 and Retry-After
	// meanwhile. Longer than hold, or pulls that wait for a scan are cut.
	Drain time.Duration `yaml:"drain"`
	// TLS serves the pull API over HTTPS. If missing, plain HTTP: put a proxy
	// that speaks TLS in front, or tell the clients.
	TLS TLS `yaml:"tls"`
}

// TLS is a certificate and its key. Both or neither must be given.
type TLS struct {
	// Cert is a file with the certificate and its intermediates, PEM.
	Cert string `yaml:"cert"`
	// Key is a file with the private key, PEM.
	Key string `yaml:"key"`
}

// Refusal is how an image is refused.
type Refusal struct {
	// Head is how a HEAD request for a refused or not yet decided image is
	// answered. `bare`: 200 without digest and length, so that containerd and
	// docker ask by GET, which is refused with the reasons, and do not fall back
	// to the upstream. `403`: the status of the GET.
	Head HeadMode `yaml:"head"`
	// Help ends every refusal: whom to ask for an exception, and where. One line
	// of at most 300 bytes. If empty, a general sentence.
	Help string `yaml:"help"`
}

// Admin is the listener for people and monitoring.
type Admin struct {
	// Listen is the address of API, health and metrics, as host:port. It has no
	// authentication: keep it on loopback or behind something that has.
	Listen string `yaml:"listen"`
	// Hosts are names under which the admin address is reached, besides IP
	// addresses and localhost; a request for another host is refused, which keeps
	// web pages from reaching it through a browser.
	Hosts []string `yaml:"hosts"`
}

// Storage is where bytes are kept.
type Storage struct {
	// Driver is a storage driver of the distribution project: filesystem, s3,
	// gcs, azure or inmemory (for tests: gone at the end).
	Driver StorageDriver `yaml:"driver"`
	// Parameters are the driver's own, as in distribution's documentation. For
	// filesystem: rootdirectory; if missing, `blobs` in dataDir.
	Parameters map[string]any `yaml:"parameters"`
	// Spool is a local directory for blobs while they arrive. With the filesystem
	// driver it must be on the file system of rootdirectory. If empty, `spool` in
	// rootdirectory, or for the other drivers in dataDir.
	Spool string `yaml:"spool"`
	// Redirect answers requests for layers with the address of the object in the
	// object store, signed for a few minutes, so that its bytes do not pass through
	// Pratique. For s3, gcs and azure, where every client reaches the store. What may
	// not be had is refused before.
	Redirect bool `yaml:"redirect"`
	// Hot keeps layers that are pulled on a local disk, in front of an object store.
	Hot Hot `yaml:"hot"`
}

// Cache is how long a tag is believed, and what is too large to be kept.
type Cache struct {
	// TagTTL is how long what a tag names is believed before the upstream is
	// asked again, with a HEAD, which Docker Hub does not count. 0s asks always.
	TagTTL time.Duration `yaml:"tagTTL"`
	// MaxBlobSize is the greatest layer, as it is compressed, that is fetched. A
	// greater one is refused.
	MaxBlobSize Size `yaml:"maxBlobSize"`
	// StaleIfError is for how long after the upstream's last answer a tag is
	// still served when the upstream does not answer, by the kind of tag. Pulls by
	// digest need no upstream, ever. 0s never serves a tag that could not be
	// checked.
	StaleIfError StaleIfError `yaml:"staleIfError"`
	// MaxSize is how many bytes of blobs are kept. Above it, layers of the images
	// that were pulled least recently are removed until it is kept again; what was
	// found in them stays, so that pulling one again needs no analysis. 0 is no
	// limit.
	MaxSize Size `yaml:"maxSize"`
	// UnusedFor removes layers of images that nobody pulled for so long, whether
	// there is room or not. 0s never does.
	UnusedFor time.Duration `yaml:"unusedFor"`
	// Pins are globs on UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG whose images
	// are never removed: docker.io/library/*, lab/pause:3.*.
	Pins []string `yaml:"pins"`
}

// StaleIfError is how long each kind of tag is served without its upstream.
type StaleIfError struct {
	// Semver is for tags that look like a version with at least one dot: 1.27,
	// v1.27.3, 3.20.1-alpine.
	Semver time.Duration `yaml:"semver"`
	// Latest is for the tag `latest`.
	Latest time.Duration `yaml:"latest"`
	// Other is for all other tags: 8, stable, bookworm-slim.
	Other time.Duration `yaml:"other"`
}

// Upstream is one registry that may be pulled from.
type Upstream struct {
	// URL is the address: https://host[:port], or http:// for a registry without
	// TLS.
	URL string `yaml:"url"`
	// Private allows private and loopback addresses, and plain HTTP together with
	// credentials. Leave it off for public registries: it keeps their redirects
	// and token servers from leading into your network. Link-local addresses,
	// where clouds have their metadata services, are never contacted.
	Private bool `yaml:"private"`
	// CA is a file with certificates, PEM, that are trusted for this upstream
	// besides the system's.
	CA string `yaml:"ca"`
	// Credentials to log in with. If missing, anonymous. One of: username and
	// passwordFile; dockerConfig; keychain.
	Credentials Credentials `yaml:"credentials"`
	// Limits keep an upstream that is slow or broken from harming pulls from the
	// others. Each key that is 0 or missing has the default that its text names.
	Limits Limits `yaml:"limits"`
}

// Limits of one upstream.
type Limits struct {
	// Transfers is how many layers are fetched from it at the same time; more
	// wait. 0 is 32.
	Transfers int `yaml:"transfers"`
	// Requests is how many other requests to it run at the same time; more wait. 0
	// is 64.
	Requests int `yaml:"requests"`
	// MinSpeed is how many bytes of an answer must come in a second, on average
	// over 30 seconds; a slower one is broken off, and a layer resumed. 0 is 1KiB.
	MinSpeed Size `yaml:"minSpeed"`
	// BreakAfter is how many requests must fail without an answer, one after
	// another, until the upstream counts as down: then requests to it fail at once
	// with 502 or 504 and Retry-After, and one of them asks now and then whether it
	// is back. 0 is 5.
	BreakAfter int `yaml:"breakAfter"`
	// BreakPause is how long an upstream that is down is not asked. 0s is 10s.
	BreakPause time.Duration `yaml:"breakPause"`
}

// Credentials are one way to log in.
type Credentials struct {
	// Username to log in with; needs passwordFile.
	Username string `yaml:"username"`
	// PasswordFile is a file with the password or token; white space around it is
	// ignored.
	PasswordFile string `yaml:"passwordFile"`
	// DockerConfig is a docker config.json (`docker login` writes it; a
	// kubernetes.io/dockerconfigjson secret holds it).
	DockerConfig string `yaml:"dockerConfig"`
	// Keychain takes the credentials of the machine or workload in a cloud: ecr
	// (AWS), gcr (Google, Artifact Registry too) or acr (Azure).
	Keychain Keychain `yaml:"keychain"`
}

// Database is the vulnerability database.
type Database struct {
	// Sources are the artifacts to fetch it from, in order: the next one is asked
	// when one does not answer. One at a private address must be configured under
	// upstreams too, with private true.
	Sources []string `yaml:"sources"`
	// Path is a copy on disk: a directory, a .tar.gz or an OCI layout. If set, no
	// source is ever asked (air gap).
	Path string `yaml:"path"`
	// Refresh is how often the sources, or the path, are looked at for a newer
	// one. At least 1m.
	Refresh time.Duration `yaml:"refresh"`
	// Serve offers the database in use to other users of Trivy, as the artifact
	// pratique/trivy-db:2 of the registry listener (`trivy image --db-repository
	// HOST/pratique/trivy-db:2`). It costs the disk of one compressed copy.
	Serve bool `yaml:"serve"`
}

// JavaDatabase identifies .jar files.
type JavaDatabase struct {
	// Sources are the artifacts to fetch it from, in order. With neither sources
	// nor path, jars without metadata of their own are not identified.
	Sources []string `yaml:"sources"`
	// Path is a copy on disk: a directory, a .tar.gz or an OCI layout. If set, no
	// source is ever asked.
	Path string `yaml:"path"`
}

// Scanner is how layers are analysed.
type Scanner struct {
	// Analyzer is the worker's binary. If empty, pratique-analyzer beside the
	// running pratique.
	Analyzer string `yaml:"analyzer"`
	// Workers is how many layers are analysed at the same time. 0 is one for
	// each CPU.
	Workers int `yaml:"workers"`
	// Memory of one worker.
	Memory Size `yaml:"memory"`
	// Timeout for one layer, counted while the worker has something to read.
	Timeout time.Duration `yaml:"timeout"`
	// MaxLayerSize is the greatest uncompressed size of a layer.
	MaxLayerSize Size `yaml:"maxLayerSize"`
	// TempDisk is how much one worker may write to temporary files (nested
	// archives are unpacked there).
	TempDisk Size `yaml:"tempDisk"`
	// Licenses looks for licence texts in files. It costs about twenty times the
	// CPU of packages alone.
	Licenses bool `yaml:"licenses"`
	// Misconfigurations checks configuration files in layers. Image configs
	// (Dockerfile instructions) are checked always.
	Misconfigurations bool `yaml:"misconfigurations"`
}

// Log is what Pratique writes to standard error.
type Log struct {
	// Level is the least severe that is written: debug, info, warn or error.
	Level LogLevel `yaml:"level"`
	// Format is how a line is written: text or json.
	Format LogFormat `yaml:"format"`
}
