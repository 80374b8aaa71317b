package config

import "time"

// The keys of what rules may read besides reports, and of what is told of it.

// Exceptions lift findings or rules for some images until they expire.
type Exceptions struct {
	// Files hold exceptions as YAML, for GitOps: one that is taken out of its file
	// is revoked. Besides them there are those made with `pratique exception`.
	Files []string `yaml:"files"`
	// MaxDuration is the longest that an exception may last. 0s sets no limit.
	MaxDuration time.Duration `yaml:"maxDuration"`
}

// VEX are statements about vulnerabilities in products.
type VEX struct {
	// Files are documents in OpenVEX, CycloneDX VEX or CSAF, as JSON; a directory
	// stands for all *.json in it.
	Files []string `yaml:"files"`
	// SignedBy are identities of trust.identities whose OpenVEX attestations, found
	// beside an image in its registry, are believed. An unsigned one never is.
	SignedBy []string `yaml:"signedBy"`
}

// Exploits are lists of what is exploited.
type Exploits struct {
	// KEV is CISA's catalogue of known exploited vulnerabilities, JSON: a file or a
	// URL. If empty, rules with `kev` are refused.
	KEV string `yaml:"kev"`
	// EPSS are FIRST's scores, CSV, also .gz: a file or a URL. If empty, rules with
	// `epss` are refused.
	EPSS string `yaml:"epss"`
	// Refresh is how often both are fetched. At least 1m.
	Refresh time.Duration `yaml:"refresh"`
}

// Trust names identities.
type Trust struct {
	// Identities by name: what rules call `by`.
	Identities map[string]Identity `yaml:"identities"`
	// TrustedRoot is a Sigstore trusted root (JSON) with the certificate
	// authorities and logs that keyless signatures are held against; nothing is
	// fetched. Needed for sigstore identities only.
	TrustedRoot string `yaml:"trustedRoot"`
	// Recheck is how long what was found for an image is believed before its
	// registry is asked again. When that does not answer, it is believed on.
	Recheck time.Duration `yaml:"recheck"`
}

// Identity is one signer: exactly one of key, sigstore and notation.
type Identity struct {
	// Key is a file with a public key, PEM, as `cosign generate-key-pair` writes it.
	Key string `yaml:"key"`
	// Sigstore is a keyless identity.
	Sigstore SigstoreIdentity `yaml:"sigstore"`
	// Notation is an X.509 identity of the Notary Project.
	Notation NotationIdentity `yaml:"notation"`
}

// SigstoreIdentity is who signed in the certificate of a keyless signature.
type SigstoreIdentity struct {
	// Issuer is the OIDC issuer, exactly.
	Issuer string `yaml:"issuer"`
	// Subject is the identity, a glob: https://github.com/acme/*/.github/workflows/*.
	Subject string `yaml:"subject"`
}

// NotationIdentity is whose certificate signed.
type NotationIdentity struct {
	// CA are files with the trusted authorities' certificates, PEM.
	CA []string `yaml:"ca"`
	// TSA are files with the root certificates of trusted time stampers, PEM: a
	// signature that they stamped while its certificate was valid outlives it.
	TSA []string `yaml:"tsa"`
	// Subjects are distinguished names as in Notation's trust policies
	// (x509.subject: C=US, ST=WA, O=acme); empty means everybody that the
	// authorities certify.
	Subjects []string `yaml:"subjects"`
}

// History is the record of who pulled what.
type History struct {
	// Retention is how long pulls and the verdicts that met them are kept. That and
	// when an image was served first and last is kept for ever.
	Retention time.Duration `yaml:"retention"`
}

// Notify tells others what happens.
type Notify struct {
	// Name is the source of every event, as a URI or a path: which Pratique it was.
	Name string `yaml:"name"`
	// Link is where people find this Pratique's admin address, as
	// https://pratique.example.com: messages end with links there. If empty, none do.
	Link string `yaml:"link"`
	// Sinks are who is told, by name. Without any, nothing is looked for.
	Sinks map[string]Sink `yaml:"sinks"`
}

// Sink is one receiver of events.
type Sink struct {
	// URL is posted to. It is not shown anywhere: those of chats are secrets, and
	// PRATIQUE_NOTIFY_SINKS_<KEY>_URL keeps them out of the file.
	URL string `yaml:"url"`
	// Format of requests: `cloudevents` (CloudEvents 1.0, structured; if empty too),
	// `cloudevents-binary`, `slack`, `mattermost`, `teams` (incoming webhooks of the
	// chats; for Teams one of its Workflows), `distribution` (the envelope in which
	// registries notify) or `template`.
	Format SinkFormat `yaml:"format"`
	// Template is a file with a Go template, which writes the body; for format
	// `template`.
	Template string `yaml:"template"`
	// SecretFile is a file with the secret that signs every request (HMAC-SHA256);
	// white space around it is ignored. If empty, none is signed.
	SecretFile string `yaml:"secretFile"`
	// Types are globs on the types of events: verdict.*, image.refused. If empty,
	// all.
	Types []string `yaml:"types"`
	// Repositories are globs on UPSTREAM/REPOSITORY: docker.io/library/*, lab/**.
	// Events that are about no repository pass always. If empty, all.
	Repositories []string `yaml:"repositories"`
	// Private allows private and loopback addresses.
	Private bool `yaml:"private"`
}
