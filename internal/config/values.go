package config

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"

	"pratique"
	"pratique/internal/strictyaml"
)

// Size is a number of bytes, written with a unit: 512MiB, 2GiB, 10GB, or plain.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	// The longer names first: "MiB" ends in "B" too.
	{"KiB", int64(KiB)}, {"MiB", int64(MiB)}, {"GiB", int64(GiB)}, {"TiB", int64(TiB)},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// UnmarshalText reads a size; it may not be negative.
func (s *Size) UnmarshalText(b []byte) error {
	text, unit := string(b), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit || strings.HasPrefix(text, "+") {
		return fmt.Errorf("want a size such as 512MiB or 2GiB, not %q", b)
	}
	*s = Size(n * unit)
	return nil
}

// String writes the size with the greatest binary unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		name  string
		bytes Size
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if s >= u.bytes && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Platform is os/architecture[/variant].
type Platform pratique.Platform

// UnmarshalText reads a platform.
func (p *Platform) UnmarshalText(b []byte) error {
	parsed, err := pratique.ParsePlatform(string(b))
	if err != nil {
		return err
	}
	*p = Platform(parsed)
	return nil
}

// String is os/architecture[/variant].
func (p Platform) String() string { return pratique.Platform(p).String() }

// WantedPlatforms are the platforms as the rest of Pratique knows them.
func (c Config) WantedPlatforms() []pratique.Platform {
	out := make([]pratique.Platform, len(c.Platforms))
	for i, p := range c.Platforms {
		out[i] = pratique.Platform(p)
	}
	return out
}

// HeadMode is how HEAD is answered for what may not be had.
type HeadMode string

// Modes of refusal.head.
const (
	HeadBare HeadMode = "bare"
	Head403  HeadMode = "403"
)

// UnmarshalText accepts the modes only.
func (m *HeadMode) UnmarshalText(b []byte) error {
	return word(m, b, HeadBare, Head403)
}

// StorageDriver names a storage driver.
type StorageDriver string

// UnmarshalText accepts the drivers that are linked in.
func (d *StorageDriver) UnmarshalText(b []byte) error {
	return word(d, b, "filesystem", "s3", "gcs", "azure", "inmemory")
}

// Keychain names a cloud whose credentials are used. Empty is none.
type Keychain string

// Keychains.
const (
	KeychainECR Keychain = "ecr"
	KeychainGCR Keychain = "gcr"
	KeychainACR Keychain = "acr"
)

// UnmarshalText accepts the clouds that are known.
func (k *Keychain) UnmarshalText(b []byte) error {
	return word(k, b, KeychainECR, KeychainGCR, KeychainACR)
}

// SinkFormat is how a sink is written to.
type SinkFormat string

// Formats of sinks.
const (
	SinkCloudEvents       SinkFormat = "cloudevents"
	SinkCloudEventsBinary SinkFormat = "cloudevents-binary"
	SinkSlack             SinkFormat = "slack"
	SinkMattermost        SinkFormat = "mattermost"
	SinkTeams             SinkFormat = "teams"
	SinkDistribution      SinkFormat = "distribution"
	SinkTemplate          SinkFormat = "template"
)

// UnmarshalText accepts the formats that are known.
func (f *SinkFormat) UnmarshalText(b []byte) error {
	return word(f, b, SinkCloudEvents, SinkCloudEventsBinary, SinkSlack, SinkMattermost, SinkTeams, SinkDistribution, SinkTemplate)
}

// ScheduleAction is what is done at set times.
type ScheduleAction string

// Actions of schedules.
const (
	DoRescan     ScheduleAction = "rescan"
	DoRevalidate ScheduleAction = "revalidate"
	DoPrefetch   ScheduleAction = "prefetch"
	DoEvict      ScheduleAction = "evict"
	DoFullPass   ScheduleAction = "full-pass"
)

// UnmarshalText accepts the actions that are known.
func (a *ScheduleAction) UnmarshalText(b []byte) error {
	return word(a, b, DoRescan, DoRevalidate, DoPrefetch, DoEvict, DoFullPass)
}

// HookType is how a registry words its webhooks.
type HookType string

// Types of webhooks.
const (
	HookDockerHub        HookType = "dockerhub"
	HookHarbor           HookType = "harbor"
	HookGHCR             HookType = "ghcr"
	HookQuay             HookType = "quay"
	HookACR              HookType = "acr"
	HookDistribution     HookType = "distribution"
	HookGitLab           HookType = "gitlab"
	HookECR              HookType = "ecr"
	HookArtifactRegistry HookType = "artifact-registry"
	HookJFrog            HookType = "jfrog"
	HookCloudEvents      HookType = "cloudevents"
)

// UnmarshalText accepts the types that are known.
func (t *HookType) UnmarshalText(b []byte) error {
	return word(t, b, HookDockerHub, HookHarbor, HookGHCR, HookQuay, HookACR, HookDistribution, HookGitLab, HookECR, HookArtifactRegistry, HookJFrog, HookCloudEvents)
}

// HookAuth is how a registry that calls proves who it is.
type HookAuth string

// Ways to authenticate webhooks.
const (
	HookHMAC   HookAuth = "hmac"
	HookHeader HookAuth = "header"
	HookPath   HookAuth = "path"
	HookOIDC   HookAuth = "oidc"
)

// UnmarshalText accepts the ways that are known.
func (a *HookAuth) UnmarshalText(b []byte) error {
	return word(a, b, HookHMAC, HookHeader, HookPath, HookOIDC)
}

// Authentication is how callers of this hook prove who they are: Auth, or what fits
// Type.
func (h Hook) Authentication() HookAuth {
	switch {
	case h.Auth != "":
		return h.Auth
	case h.Type == HookGHCR:
		return HookHMAC
	case h.Type == HookDockerHub, h.Type == HookQuay:
		return HookPath
	case h.Type == HookArtifactRegistry:
		return HookOIDC
	}
	return HookHeader
}

// LogLevel is the least severe level that is written.
type LogLevel string

// UnmarshalText accepts slog's four names in lower case.
func (l *LogLevel) UnmarshalText(b []byte) error {
	return word(l, b, "debug", "info", "warn", "error")
}

// Slog is the level as log/slog has it; a word nobody defined is info.
func (l LogLevel) Slog() slog.Level {
	switch l {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// LogFormat is text or json.
type LogFormat string

// UnmarshalText accepts the two formats.
func (f *LogFormat) UnmarshalText(b []byte) error { return word(f, b, "text", "json") }

// word reads one of a few words into out.
func word[T ~string](out *T, b []byte, words ...T) error {
	if w := T(b); slices.Contains(words, w) {
		*out = w
		return nil
	}
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	return fmt.Errorf("%q: want %s", b, strictyaml.List(names, "or"))
}
