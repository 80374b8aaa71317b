package scanner

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"pratique"
)

// Limits of what is kept of a config's claims: they are in every report, and
// their authors write what they like.
const (
	maxLabels = 64
	maxLabel  = 1 << 10 // bytes, name and value
	maxClaim  = 256     // bytes of a user, or of a part of a platform
)

// configFacts reads what the image's config claims. Each claim is read by
// itself: one that is nonsense is not known, and takes no other with it. A label
// that is too long is left out, never cut: half of a value is another value.
func configFacts(raw []byte) pratique.ConfigFacts {
	var doc struct {
		Created   json.RawMessage `json:"created"`
		OS        json.RawMessage `json:"os"`
		Arch      json.RawMessage `json:"architecture"`
		Variant   json.RawMessage `json:"variant"`
		OSVersion json.RawMessage `json:"os.version"`
		Config    json.RawMessage `json:"config"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return pratique.ConfigFacts{} // verify says so
	}
	var config struct {
		User   json.RawMessage `json:"User"`
		Labels json.RawMessage `json:"Labels"`
	}
	_ = json.Unmarshal(doc.Config, &config) // not known
	return pratique.ConfigFacts{
		Created: claimedTime(doc.Created),
		Platform: pratique.Platform{
			OS: claim(doc.OS), Architecture: claim(doc.Arch), Variant: claim(doc.Variant), OSVersion: claim(doc.OSVersion),
		},
		User:   claim(config.User),
		Labels: claimedLabels(config.Labels),
	}
}

func claim(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	if len(s) > maxClaim {
		s = strings.ToValidUTF8(s[:maxClaim], "")
	}
	return s
}

func claimedTime(raw json.RawMessage) time.Time {
	t, err := time.Parse(time.RFC3339Nano, claim(raw))
	if t = t.UTC(); err != nil || t.Year() < 1 || t.Year() > 9999 { // else the report could not be written
		return time.Time{}
	}
	return t
}

// claimedLabels keeps those that the OCI image-spec defines first: where there
// are too many, they are the ones that are read.
func claimedLabels(raw json.RawMessage) map[string]string {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil || len(all) == 0 {
		return nil
	}
	const spec = "org.opencontainers.image."
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		if x, y := strings.HasPrefix(a, spec), strings.HasPrefix(b, spec); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	out := make(map[string]string)
	for _, name := range names {
		var value string
		if len(out) == maxLabels {
			break
		}
		if json.Unmarshal(all[name], &value) == nil && len(name)+len(value) <= maxLabel {
			out[name] = value
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
