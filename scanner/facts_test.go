package scanner_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner"
)

// TestLicenses: strict ones by package, lenient ones once, each classified, and a
// newer database changes nothing of them.
func TestLicenses(t *testing.T) {
	l := newLab(t, scanner.Config{})
	const content = "os debian 12\n" +
		"pkg bash 5.2 GPL-3.0 GPL-3.0 MIT\npkg zlib1g 1.2 MIT Nobody-Knows\npkg awk 1 MIT\npkg grep 3 GPL-3.0 MIT\npkg none 1\n" +
		"app npm srv/package-lock.json left GPL-3.0 MIT\napp npm lib/package-lock.json left GPL-3.0\nlicense MIT srv/LICENSE\n"
	ref := l.image("app", nil, content)
	layer := digest.FromString(content)
	high, low, unknown := pratique.SeverityHigh, pratique.SeverityLow, pratique.SeverityUnknown
	license := func(id, category string, s pratique.Severity, f pratique.Finding) pratique.Finding {
		f.ID, f.Kind, f.Category, f.Severity, f.FirstSeen = id, pratique.KindLicense, category, s, now
		return f
	}
	deb := func(name, version string) pratique.Finding {
		return pratique.Finding{Package: name, Ecosystem: "debian", Installed: version, Layer: layer, PURL: fmt.Sprintf("pkg:deb/debian/%s@%s?distro=debian-12", name, version)}
	}
	want := []pratique.Finding{
		license("GPL-3.0", "restricted", high, deb("bash", "5.2")),
		license("GPL-3.0", "restricted", high, deb("grep", "3")),
		license("GPL-3.0", "restricted", high, pratique.Finding{Package: "left", Ecosystem: "npm", Installed: "1", Path: "lib/package-lock.json", Layer: layer}),
		license("MIT", "notice", low, pratique.Finding{Title: "awk, bash, grep and 2 more"}),
		license("MIT", "notice", low, pratique.Finding{Ecosystem: "license-file", Path: "srv/LICENSE", Layer: layer}),
		license("Nobody-Knows", "unknown", unknown, deb("zlib1g", "1.2")),
	}
	licenses := func(r pratique.Report) []pratique.Finding {
		var out []pratique.Finding
		for _, f := range r.Findings {
			if f.Kind == pratique.KindLicense {
				out = append(out, f)
			}
		}
		return out
	}
	if d := cmp.Diff(want, licenses(l.scan(ref))); d != "" {
		t.Errorf("licenses (-want +got):\n%s", d)
	}
	l.matcher.adopt("db2", now)
	l.matcher.vulns["awk"] = cve("CVE-1")
	r, err := l.scanner.Rematch(t.Context(), ref.Digest)
	if err != nil || r.Engine.Database != digest.FromString("db2") {
		t.Fatalf("%v, %+v", err, r.Engine)
	}
	if d := cmp.Diff(want, licenses(r)); d != "" {
		t.Errorf("licenses after a newer database (-want +got):\n%s", d)
	}
}

// TestConfigFacts: what the config claims is in the report as far as it is
// sensible, whatever else is wrong with it, and a newer database keeps it.
func TestConfigFacts(t *testing.T) {
	created := time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC)
	many := make([]string, 100)
	for i := range many {
		many[i] = fmt.Sprintf(`"label%02d":"v"`, i)
	}
	bounded := map[string]string{"org.opencontainers.image.base.name": "docker.io/library/debian:12"}
	for i := range 63 {
		bounded[fmt.Sprintf("label%02d", i)] = "v"
	}
	linux := pratique.Platform{OS: "linux", Architecture: "arm64", Variant: "v8", OSVersion: "1"}
	const platform = `"os":"linux","architecture":"arm64","variant":"v8","os.version":"1"`
	tests := []struct {
		name, config string
		want         pratique.ConfigFacts
	}{
		{"all", platform + `,"created":"2024-05-06T09:08:09.00000001+02:00","config":{"User":"1000:1000","Labels":{"a":"b"}}`,
			pratique.ConfigFacts{Created: created, Platform: linux, User: "1000:1000", Labels: map[string]string{"a": "b"}}},
		{"nothing", `"os":"linux"`, pratique.ConfigFacts{Platform: pratique.Platform{OS: "linux"}}},
		{"nonsense, one by one", platform + `,"created":"yesterday","config":{"User":7,"Labels":{"a":1,"b":"c"}}`, pratique.ConfigFacts{Platform: linux, Labels: map[string]string{"b": "c"}}},
		{"labels that are none", platform + `,"created":5,"config":{"User":"u","Labels":["a"]}`, pratique.ConfigFacts{Platform: linux, User: "u"}},
		{"no config at all", platform + `,"config":null`, pratique.ConfigFacts{Platform: linux}},
		{"a config that is none", platform + `,"config":"x"`, pratique.ConfigFacts{Platform: linux}},
		{"a time that JSON cannot hold", platform + `,"created":"9999-12-31T23:59:59-14:00"`, pratique.ConfigFacts{Platform: linux}},
		{"too long", platform + `,"config":{"User":"` + strings.Repeat("u", 1000) + `","Labels":{"short":"v","long":"` + strings.Repeat("v", 1021) + `"}}`,
			pratique.ConfigFacts{Platform: linux, User: strings.Repeat("u", 256), Labels: map[string]string{"short": "v"}}},
		{"too many labels: the known ones first", platform + `,"config":{"Labels":{` + strings.Join(many, ",") + `,"org.opencontainers.image.base.name":"docker.io/library/debian:12"}}`,
			pratique.ConfigFacts{Platform: linux, Labels: bounded}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, scanner.Config{})
			ref := l.image("app", func(d *draft) {
				d.config = fmt.Appendf(nil, `{%s,"rootfs":{"type":"layers","diff_ids":[%q]}}`, tt.config, diffID(base))
			}, base)
			r := l.scan(ref)
			if d := cmp.Diff(tt.want, r.Config, cmpopts.EquateEmpty()); d != "" || r.State != pratique.StateScanned {
				t.Errorf("%s, config (-want +got):\n%s", r.State, d)
			}
			l.matcher.adopt("db2", now)
			again, err := l.scanner.Rematch(t.Context(), ref.Digest)
			if d := cmp.Diff(r.Config, again.Config, cmpopts.EquateEmpty()); err != nil || d != "" {
				t.Errorf("after a newer database: %v (-want +got):\n%s", err, d)
			}
		})
	}
	l := newLab(t, scanner.Config{})
	if r := l.scan(l.image("failed", func(d *draft) { d.diffIDs[0] = diffID("another") }, base)); r.State != pratique.StateFailed || r.Config.Platform.Architecture != "amd64" {
		t.Errorf("a failed scan is %s, with platform %s", r.State, r.Config.Platform)
	}
}

// FuzzConfigFacts: whatever a config holds, its claims are bounded and can be
// kept: a report that cannot be written is an image that is never scanned.
func FuzzConfigFacts(f *testing.F) {
	for _, seed := range []string{
		`{"os":"linux","created":"2024-05-06T09:08:09.00000001+02:00","config":{"User":"0","Labels":{"a":"b"}}}`,
		`{"created":"0001-01-01T00:00:00+14:00"}`, `{"created":"9999-12-31T23:59:59-14:00"}`, `{"config":{"Labels":{"\ud800":"\u0000"}}}`, `[]`, `{"os":"\xff"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := scanner.ConfigFacts(raw)
		b, err := json.Marshal(pratique.Report{Config: got})
		if err != nil {
			t.Fatalf("the report cannot be written: %v", err)
		}
		var again pratique.Report
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatalf("the report cannot be read: %v", err)
		}
		if d := cmp.Diff(got, again.Config, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("another one is read than was written (-written +read):\n%s", d)
		}
		if len(got.Labels) > 64 || len(got.User) > 256 || len(got.Platform.OS) > 256 {
			t.Errorf("not bounded: %+v", got)
		}
	})
}
