package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const lab = "upstreams: {lab: {url: \"https://lab.example\"}}\n"

func TestContinuousMistakes(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"no cron", "schedules: {a: {do: evict}}", "schedules.a.cron: invalid schedule: empty"},
		{"four fields", `schedules: {a: {cron: "0 2 * *", do: evict}}`, "want five fields"},
		{"no such zone", `schedules: {a: {cron: "CRON_TZ=Mars/Base 0 2 * * *", do: evict}}`, "Mars/Base"},
		{"no action", `schedules: {a: {cron: "@daily"}}`, "schedules.a.do: missing"},
		{"unknown action", `schedules: {a: {cron: "@daily", do: evikt}}`, "evikt"},
		{"prefetch of nothing", `schedules: {a: {cron: "@daily", do: prefetch}}`, "schedules.a.match: missing"},
		{"prefetch of everything", lab + `schedules: {a: {cron: "@daily", do: prefetch, match: ["lab/**"]}}`, "name one repository"},
		{"prefetch from nowhere", lab + `schedules: {a: {cron: "@daily", do: prefetch, match: ["quay.io/a/b:1.*"]}}`, `no upstream has the key "quay.io"`},
		{"eviction of some", `schedules: {a: {cron: "@daily", do: evict, match: ["docker.io/**"]}}`, "leave match out"},
		{"no pattern", `schedules: {a: {cron: "@daily", do: rescan, match: ["nginx"]}}`, "want UPSTREAM/REPOSITORY"},
		{"name", `schedules: {"a b": {cron: "@daily", do: evict}}`, "want a name"},
		{"pins", `cache: {pins: ["nginx"]}`, "cache.pins[0]"},
		{"unused", `cache: {unusedFor: -1h}`, "cache.unusedFor"},
		{"hook without a type", lab + `hooks: {from: {a: {upstream: lab, secretFile: s}}}`, "hooks.from.a.type: missing"},
		{"hook of nobody", lab + `hooks: {from: {a: {type: harbor, upstream: other, secretFile: s}}}`, `hooks.from.a.upstream: "other": no upstream`},
		{"hook without a secret", lab + `hooks: {from: {a: {type: harbor, upstream: lab}}}`, "would be anybody's"},
		{"oidc for everybody", lab + `hooks: {from: {a: {type: artifact-registry, upstream: lab, audience: x}}}`, "hooks.from.a.account: want the service account"},
		{"oidc for anything", lab + `hooks: {from: {a: {type: artifact-registry, upstream: lab, account: x@y.z}}}`, "hooks.from.a.audience"},
		{"a secret besides oidc", lab + `hooks: {from: {a: {type: artifact-registry, upstream: lab, audience: x, account: x@y.z, secretFile: s}}}`, "hooks.from.a.secretFile"},
		{"a header for hmac", lab + `hooks: {from: {a: {type: ghcr, upstream: lab, secretFile: s, header: X}}}`, "hooks.from.a.header: is for auth header"},
		{"keys for a header", lab + `hooks: {from: {a: {type: harbor, upstream: lab, secretFile: s, keysURL: "https://x"}}}`, "hooks.from.a.keysURL"},
		{"negative rate", lab + `hooks: {from: {a: {type: harbor, upstream: lab, secretFile: s, rate: -1}}}`, "hooks.from.a.rate"},
		{"hooks where clusters pull", `hooks: {listen: ":5000"}`, "hooks.listen: :5000 is registry.listen too"},
		{"half a certificate", `hooks: {listen: ":5002", tls: {cert: a}}`, "hooks.tls: want both"},
		{"a certificate for nothing", `hooks: {tls: {cert: a, key: b}}`, "hooks.tls: is for hooks.listen"},
		{"prefetch", `hooks: {prefetch: ["x"]}`, "hooks.prefetch[0]"},
		{"link", `notify: {link: "pratique.example"}`, "notify.link"},
		{"link with a user", `notify: {link: "https://u:p@pratique.example"}`, "notify.link"},
	} {
		_, err := Load(write(t, test.file), nil, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestContinuous(t *testing.T) {
	c, err := Load(write(t, lab+`
schedules: {nightly: {cron: "CRON_TZ=Europe/Berlin 0 2 * * *", do: prefetch, match: ["lab/app:1.*"]}}
hooks:
  listen: ":5002"
  prefetch: ["lab/**"]
  from:
    hub: {type: dockerhub, upstream: lab, secretFile: s}
    gar: {type: artifact-registry, upstream: lab, audience: x, account: x@y.z}
`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Schedules) != 1 {
		t.Errorf("%d schedules: those of a file replace the default", len(c.Schedules))
	}
	got := map[string]HookAuth{}
	for name, h := range c.Hooks.From {
		got[name] = h.Authentication()
	}
	want := map[string]HookAuth{"hub": HookPath, "gar": HookOIDC}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := Default().Schedules["full-pass"]; d.Do != DoFullPass {
		t.Errorf("by default %+v, want a full pass", d)
	}
}

func TestParseCronIsUTC(t *testing.T) {
	s, err := ParseCron("0 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 7, 1, 12, 0, 0, 0, time.FixedZone("", 5*3600))
	if got, want := s.Next(from).UTC(), time.Date(2026, 7, 2, 2, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("next %s, want %s", got, want)
	}
	s, err = ParseCron("CRON_TZ=Europe/Berlin 0 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Next(from).UTC(), time.Date(2026, 7, 2, 0, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("next in Berlin %s, want %s", got, want)
	}
}
