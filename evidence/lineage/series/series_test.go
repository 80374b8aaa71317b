package series_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/evidence/lineage/series"
)

// Tags as repositories have them, cut down.
var repositories = map[string]string{
	"nginx":    `latest mainline stable 1 1.26 1.27 1.28 1.26.2 1.27.2 1.27.3 1.27.4 1.28.0 1.27.3-bookworm 1.27.4-bookworm 1.27-bookworm 1.27.2-alpine 1.27.3-alpine 1.27.3-alpine3.20 1.27.4-alpine3.20 1.27.4-alpine3.21 1.28.0-alpine3.21 1.27.3-alpine-slim 1.27.4-alpine3.21-slim 1.27.3-alpine-perl alpine alpine3.20 alpine3.21 bookworm stable-alpine3.20 stable-alpine3.21 mainline-alpine`,
	"node":     `20 22 23 20-alpine 22-alpine 20-alpine3.20 20-alpine3.21 22-alpine3.21 20.18.0 20.18.1 20.19.0 22.11.0 20.18.0-bookworm-slim 20.18.1-bookworm-slim 20.18.1-bullseye-slim lts lts-alpine iron jod-slim current-slim 20.18.0-alpine3.19`,
	"python":   `3.12 3.13 3.14-rc 3.14-rc-slim 3.12.7 3.12.8 3.13.0rc3 3.13.0 3.13.1 3.14.0a3 3.14.0b1 3.13.0-slim-bookworm 3.13.1-slim-bookworm 3.13.0rc3-slim-bookworm 3.13.1-windowsservercore-ltsc2019 3.13.1-windowsservercore-ltsc2022 3.13.1-windowsservercore-1809 slim`,
	"postgres": `16 17 17rc1 17beta3 16.4 16.5 16.6 17.0 17.2 16.4-alpine3.20 16.6-alpine3.20 16.6-alpine3.21 17.2-bookworm 16.4-bookworm`,
	"bitnami":  `latest 17 17.2.0 17.0.0-debian-12-r0 17.0.0-debian-12-r9 17.0.0-debian-12-r10 17.2.0-debian-12-r0 17.2.0-debian-11-r5 sha256-7d3c.sig`,
	"temurin":  `17-jre 21-jre 21 17.0.12_7-jre 17.0.13_11-jre 21.0.4_7-jre 21.0.5_11-jdk 8u392-b08-jre 8u402-b06-jre jdk-21.0.2_13 jdk-21.0.3_9`,
	"calendar": `2024.10.1 2024.10.2 2024.11.0 2025.1.0 0.118.5 2024-10-01 2024-10-15 2024-12-01 20241001 20241015 20250102 RELEASE.2024-10-02T17-50-41Z RELEASE.2024-10-13T13-34-11Z v2024-10-01`,
	"static":   `latest nonroot debug debug-nonroot nonroot-amd64 latest-arm64 bookworm-20240904-slim bookworm-20241016-slim`,
}

// newest finds, per level, the newest version of a tag's series.
func newest(t *testing.T, tag, tags string) string {
	t.Helper()
	at, ok := series.Parse(tag)
	if !ok {
		return "none"
	}
	best := map[pratique.Level]series.Version{}
	for s := range strings.FieldsSeq(tags) {
		v, ok := series.Parse(s)
		if !ok {
			continue
		}
		if level, newer := series.Newer(at, v); newer {
			if b, ok := best[level]; !ok || b.Compare(v) < 0 {
				best[level] = v
			}
		}
	}
	var out []string
	for _, level := range []pratique.Level{pratique.LevelPatch, pratique.LevelMinor, pratique.LevelMajor} {
		if v, ok := best[level]; ok {
			out = append(out, string(level)+" "+v.Tag())
		}
	}
	return strings.Join(out, ", ")
}

func TestNewest(t *testing.T) {
	for _, tc := range []struct{ repository, tag, want string }{
		{"nginx", "1.27.3", "patch 1.27.4, minor 1.28.0"},
		{"nginx", "1.26.2", "minor 1.28.0"},
		{"nginx", "1.27.4", "minor 1.28.0"},
		{"nginx", "1.27", "minor 1.28"},
		{"nginx", "1.28", ""},
		{"nginx", "1", ""},
		{"nginx", "1.27.3-bookworm", "patch 1.27.4-bookworm"},
		{"nginx", "1.27.2-alpine", "patch 1.27.3-alpine"},
		{"nginx", "1.27.3-alpine3.20", "patch 1.27.4-alpine3.21, minor 1.28.0-alpine3.21"},
		{"nginx", "1.27.4-alpine3.20", "minor 1.28.0-alpine3.21"}, // 1.27.4-alpine3.21 is minor too, and older
		{"nginx", "1.27.3-alpine-slim", ""},                       // -alpine3.21-slim is written otherwise
		{"nginx", "alpine3.20", "minor alpine3.21"},
		{"nginx", "stable-alpine3.20", "minor stable-alpine3.21"},
		{"nginx", "latest", "none"},
		{"nginx", "bookworm", "none"},
		{"nginx", "mainline-alpine", "none"},

		{"node", "20", "major 23"},
		{"node", "20-alpine", "major 22-alpine"},
		{"node", "20-alpine3.20", "minor 20-alpine3.21, major 22-alpine3.21"},
		{"node", "20.18.0", "patch 20.18.1, minor 20.19.0, major 22.11.0"},
		{"node", "20.18.0-bookworm-slim", "patch 20.18.1-bookworm-slim"},
		{"node", "lts-alpine", "none"},

		{"python", "3.12", "minor 3.13"}, // not 3.14-rc
		{"python", "3.12.7", "patch 3.12.8, minor 3.13.1"},
		{"python", "3.13.0rc3", "patch 3.13.1, minor 3.14.0b1"},
		{"python", "3.13.0", "patch 3.13.1"},
		{"python", "3.14.0a3", "patch 3.14.0b1"},
		{"python", "3.13.0rc3-slim-bookworm", "patch 3.13.1-slim-bookworm"},
		{"python", "3.14-rc-slim", ""},
		{"python", "3.13.1-windowsservercore-ltsc2019", ""},

		{"postgres", "16.4", "minor 16.6, major 17.2"},
		{"postgres", "17beta3", "patch 17"},
		{"postgres", "16", "major 17"},
		{"postgres", "16.4-alpine3.20", "minor 16.6-alpine3.21"},

		{"bitnami", "17.0.0-debian-12-r9", "patch 17.0.0-debian-12-r10, minor 17.2.0-debian-12-r0"},
		{"bitnami", "17.2.0-debian-11-r5", "major 17.2.0-debian-12-r0"},
		{"bitnami", "sha256-7d3c.sig", "none"},

		{"temurin", "17-jre", "major 21-jre"},
		{"temurin", "17.0.12_7-jre", "patch 17.0.13_11-jre, major 21.0.4_7-jre"},
		{"temurin", "8u392-b08-jre", "patch 8u402-b06-jre"},
		{"temurin", "jdk-21.0.2_13", "patch jdk-21.0.3_9"},

		{"calendar", "2024.10.1", "patch 2024.10.2, minor 2024.11.0, major 2025.1.0"},
		{"calendar", "0.118.5", ""}, // a change to calendar versions is no update
		{"calendar", "2024-10-01", "patch 2024-10-15, minor 2024-12-01"},
		{"calendar", "20241001", "patch 20241015, major 20250102"},
		{"calendar", "RELEASE.2024-10-02T17-50-41Z", "patch RELEASE.2024-10-13T13-34-11Z"},
		{"calendar", "v2024-10-01", ""},

		{"static", "nonroot", "none"},
		{"static", "latest-arm64", "none"},
		{"static", "bookworm-20240904-slim", "minor bookworm-20241016-slim"},
	} {
		t.Run(tc.repository+":"+tc.tag, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, newest(t, tc.tag, repositories[tc.repository])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNewer(t *testing.T) {
	for _, tc := range []struct{ from, to, want string }{
		{"v1.2.3", "v1.2.4", "patch"},
		{"v1.2.3", "1.2.4", ""}, // written otherwise
		{"1.27", "1.27.3", ""},
		{"1.27.3", "1.28", ""},
		{"8", "9", "major"},
		{"1.9.0", "1.10.0", "minor"},
		{"1.2.3.4", "1.2.3.5", "patch"},
		{"3.20.1-r0", "3.20.1-r1", "patch"},
		{"2.1.0-rc.1", "2.1.0-rc.2", "patch"},
		{"2.1.0-rc.2", "2.1.0", "patch"},
		{"2.1.0-alpha.9", "2.1.0-beta.1", "patch"},
		{"2.1.0-beta.1", "2.1.0-rc1", "patch"},
		{"2.1.0", "2.2.0-rc.1", ""},
		{"2.1.0-rc.1", "2.2.0-rc.1", "minor"},
		{"9.0-preview-alpine3.20", "9.0-alpine3.20", "patch"},
		{"24-ea-9-jdk", "24-jdk", "patch"},
		{"4.0.0-M1", "4.0.0-RC1", "patch"},
		{"1.27-dev", "1.28-dev", "minor"}, // a variant with a shell
		{"1.27-dev", "1.27", ""},
		{"1.0.0-dev.4", "1.0.0-dev.5", "patch"},
		{"v1.30.4-k3s1", "v1.30.4-k3s2", "patch"},
		{"v1.30.4-rke2r1", "v1.30.5-rke2r1", "patch"},
		{"pg16-v0.2.0", "pg16-v0.2.1", "patch"},
		{"pg16-v0.2.0", "pg17-v0.2.1", ""},
		{"ubi8-1.2.3", "ubi9-1.2.4", ""},
		{"8.2-fpm", "8.3-fpm", "minor"},
		{"6.6-php8.2-fpm", "6.6-php8.3-fpm", "minor"}, // a choice, no fix
		{"6.6.1-php8.2", "6.6.2-php8.3", "minor"},
		{"6.6.1-php8.2", "6.6.2-php8.2", "patch"},
		{"3.9.9-eclipse-temurin-17", "3.9.9-eclipse-temurin-21", "major"},
		{"3.9.9-eclipse-temurin-17", "3.9.10-eclipse-temurin-17", "patch"},
		{"12.1.0-cudnn8-devel-ubuntu20.04", "12.1.1-cudnn8-devel-ubuntu22.04", "patch"},
		{"16-3.4", "16-3.5", "minor"}, // PostGIS
		{"9.4-1214", "9.4-1227", "patch"},
		{"9.4-1214.1726694543", "9.4-1227.1726694542", "patch"},
		{"2022-CU14-ubuntu-22.04", "2022-CU15-ubuntu-22.04", "patch"},
		{"1.2.3-ls45", "1.2.3-ls46", "patch"},
		{"1.2.3-armv6", "1.2.4-armv7", ""},
		{"1.2.3-arm64v8", "1.2.4-arm64v8", "patch"},
		{"1.2.3-amd64", "1.2.3-arm64", ""},
		{"1.2.3-x86_64", "1.2.4-x86_64", "patch"},
		{"1.2.3-386", "1.2.3-387", ""},
		{"1.2.3-386", "1.2.4-386", "patch"},
		{"1.23-nanoserver-1809", "1.23-nanoserver-2022", ""},
		{"22.04", "24.04", "major"},
		{"24.04", "24.10", "minor"},
		{"24.4", "24.04", ""}, // the same
		{"2024-09", "2024-10", "minor"},
		{"20241001.1", "20241001.2", "patch"},
		{"20241001-1", "20241001-2", "patch"},
		{"202410011230", "202410011231", "patch"},
		{"1.2.3-20241001", "1.2.3-20241101", "patch"},
		{"20241332", "20241333", ""}, // no date: nobody knows
		{"1712345678", "1712345679", ""},
		{"1.2.3-abc1234", "1.2.4-abc1234", ""},
		{"v1.2.3-14-gabc1234", "v1.2.4-0-g1234abc", ""},
		{"sha-0123456", "sha-0123457", ""},
		{"pr-12", "pr-13", ""},
		{"99999999999999999999.1.2", "100000000000000000000.1.2", "major"},
		{"00000000000000000001.1", "2.1", "major"},
		{"", "", ""},
	} {
		v, _ := series.Parse(tc.from)
		w, _ := series.Parse(tc.to)
		level, _ := series.Newer(v, w)
		if string(level) != tc.want {
			t.Errorf("%s → %s: %q, want %q (series %q, %q)", tc.from, tc.to, level, tc.want, v.Series(), w.Series())
		}
		if level, newer := series.Newer(w, v); newer && tc.want != "" {
			t.Errorf("%s → %s: %q as well", tc.to, tc.from, level)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tag := range []string{
		"", "latest", "stable", "bookworm-slim", "lts", "edge", "debug-nonroot", "amd64", "latest-arm64v8", "linux-x86_64",
		"windowsservercore-ltsc2022", "nanoserver-1809", "abc1234", "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567", "main-0a1b2c3", "1234567",
		"sha256-0a1b2c3d4e5f60718293a4b5c6d7e8f9012345670a1b2c3d4e5f607182930a1b.sig", "k8s", "..", "_", strings.Repeat("1", 129),
	} {
		if v, ok := series.Parse(tag); ok {
			t.Errorf("%q is a version of series %q", tag, v.Series())
		}
	}
}

// vocabulary is what the fuzzer makes tags of.
var vocabulary = []string{
	"0", "1", "2", "10", "01", "2024", "20241001", "20241002", ".", "-", "_", ".", "-", "v", "alpine", "rc", "alpha", "b", "r", "debian", "jdk", "php",
	"dev", "x", "k3s", "amd64", "armv7", "2024-10-01", "abc1234", "T", "ea",
}

func made(seed uint64, n int) []series.Version {
	r := rand.New(rand.NewPCG(seed, 1))
	var out []series.Version
	for range n {
		var b strings.Builder
		for range 1 + r.IntN(7) {
			b.WriteString(vocabulary[r.IntN(len(vocabulary))])
		}
		if v, ok := series.Parse(b.String()); ok {
			out = append(out, v)
		}
	}
	return out
}

// FuzzOrder holds the order to what an order is, for tags as they come and for
// tags made of what tags are made of.
func FuzzOrder(f *testing.F) {
	for _, tags := range repositories {
		f.Add(tags, uint64(1))
	}
	f.Fuzz(func(t *testing.T, tags string, seed uint64) {
		var vs []series.Version
		for tag := range strings.FieldsSeq(tags) {
			if v, ok := series.Parse(tag); ok {
				vs = append(vs, v)
			}
		}
		vs = append(vs, made(seed, 60)...)
		bySeries := map[string][]series.Version{}
		for _, v := range vs {
			if _, newer := series.Newer(v, v); newer {
				t.Fatalf("%s is newer than itself", v.Tag())
			}
			bySeries[v.Series()] = append(bySeries[v.Series()], v)
		}
		for _, of := range bySeries {
			holds(t, of[:min(len(of), 6)])
		}
	})
}

func holds(t *testing.T, vs []series.Version) {
	t.Helper()
	newer := func(v, w series.Version) bool { _, ok := series.Newer(v, w); return ok }
	for _, a := range vs {
		for _, b := range vs {
			if a.Compare(b) != -b.Compare(a) {
				t.Fatalf("%s and %s: %d one way, %d the other", a.Tag(), b.Tag(), a.Compare(b), b.Compare(a))
			}
			if newer(a, b) && newer(b, a) {
				t.Fatalf("%s and %s are newer than each other", a.Tag(), b.Tag())
			}
			for _, c := range vs {
				if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 {
					t.Fatalf("%s ≤ %s ≤ %s, but not the first and the last", a.Tag(), b.Tag(), c.Tag())
				}
				if newer(a, b) && newer(b, c) && !newer(a, c) {
					t.Fatalf("%s → %s → %s, but not from the first to the last", a.Tag(), b.Tag(), c.Tag())
				}
			}
		}
	}
}

// TestOrderOfMadeTags is FuzzOrder's body on enough tags to meet every rule.
func TestOrderOfMadeTags(t *testing.T) {
	met := map[string][]series.Version{}
	for _, v := range made(7, 60_000) {
		met[v.Series()] = append(met[v.Series()], v)
	}
	compared := 0
	for _, of := range met {
		slices.SortFunc(of, series.Version.Compare)
		of = slices.CompactFunc(of, func(v, w series.Version) bool { return v.Tag() == w.Tag() })
		if len(of) > 2 {
			compared++
			holds(t, of[:min(len(of), 20)])
		}
	}
	if compared < 200 {
		t.Fatalf("only %d series were met", compared)
	}
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		series.Parse("1.27.3-alpine3.20")
	}
}
