package worker_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/worker"
	"pratique/scanner/worker/workertest"
)

// The tests of this file run the real analyzer through the Pool. Each is one of
// the ways in which Trivy's analysis ends in silence with too little.

func realPool(t *testing.T, c worker.Config) *worker.Pool {
	t.Helper()
	c.Path, c.TempDir, c.Workers = workertest.Binary(t), t.TempDir(), 1
	p, err := worker.NewPool(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(c.TempDir, "*", "*")); len(left) > 0 {
			t.Errorf("files left: %v", left)
		}
	})
	return p
}

// file is one entry of a layer; a link when to is set.
type file struct {
	name, content, to string
	typeflag          byte
	mode              int64
}

func layer(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Linkname: f.to, Typeflag: f.typeflag, Size: int64(len(f.content)), Mode: 0o644 | f.mode}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func describe(b []byte) pratique.Descriptor {
	return pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// debian is what makes an image Debian, with one package.
func debian(more ...file) []file {
	return append([]file{
		{name: "etc/debian_version", content: "12.5\n"},
		{name: "var/lib/dpkg/status", content: "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nArchitecture: amd64\n\n"},
	}, more...)
}

const (
	osRelease = "ID=\"almalinux\"\nNAME=\"AlmaLinux\"\nVERSION_ID=\"9.3\"\n"
	dpkgOf    = "Package: a\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: amd64\n\n"
)

func TestFailsAloud(t *testing.T) {
	p := realPool(t, worker.Config{})
	long := strings.Repeat("x", 70<<10)
	tests := map[string]struct {
		files []file
		want  pratique.State
		say   string // part of a problem
	}{
		"clean Debian":             {files: debian(), want: pratique.StateScanned},
		"scratch with a text":      {files: []file{{name: "app", content: "#!/bin/true\n", mode: 0o111}}, want: pratique.StateScanned},
		"jar without a Java index": {files: debian(file{name: "opt/a-1.0.jar", content: jar(t)}), want: pratique.StateScanned},
		"dpkg status a symbolic link": {files: []file{{name: "etc/debian_version", content: "12.5\n"},
			{name: "opt/status", content: dpkgOf}, {name: "var/lib/dpkg/status", to: "/opt/status", typeflag: tar.TypeSymlink}},
			want: pratique.StateIncomplete, say: "hides the package database"},
		"dpkg status a hard link": {files: []file{{name: "etc/debian_version", content: "12.5\n"},
			{name: "opt/status", content: dpkgOf}, {name: "var/lib/dpkg/status", to: "opt/status", typeflag: tar.TypeLink}},
			want: pratique.StateIncomplete, say: "hides the package database"},
		"dpkg status with nonsense": {files: debian(file{name: "var/lib/dpkg/status.d/x", content: "Package: a\nStatus: install ok installed\n: : :\nVersion\n\n" + dpkgOf}),
			want: pratique.StateIncomplete, say: "Parse error"},
		"dpkg version of nonsense": {files: debian(file{name: "var/lib/dpkg/status.d/x", content: strings.Replace(dpkgOf, "1.0-1", "a:b:c", 1)}),
			want: pratique.StateIncomplete, say: "Invalid version"},
		"dpkg status gone": {files: []file{{name: "etc/debian_version", content: "12.5\n"}}, want: pratique.StateIncomplete, say: "no package database"},
		"dpkg status empty": {files: []file{{name: "etc/debian_version", content: "12.5\n"}, {name: "var/lib/dpkg/status"}},
			want: pratique.StateIncomplete, say: "no package database"},
		"corrupt rpmdb.sqlite": {files: []file{{name: "etc/os-release", content: osRelease}, {name: "var/lib/rpm/rpmdb.sqlite", content: "SQLite format 3\x00" + long}},
			want: pratique.StateIncomplete, say: "failed to parse rpmdb"},
		"corrupt Berkeley rpmdb": {files: []file{{name: "etc/os-release", content: osRelease}, {name: "var/lib/rpm/Packages", content: long}},
			want: pratique.StateIncomplete, say: "failed to parse rpmdb"},
		"apk line too long": {files: []file{{name: "etc/alpine-release", content: "3.20.1\n"},
			{name: "lib/apk/db/installed", content: "P:musl\nV:1.2.5-r0\n\nP:a\np:" + long + "\nV:1.0-r0\n\nP:openssl\nV:3.0.0-r0\n\n"}},
			want: pratique.StateIncomplete, say: "a line is too long"},
		"apk version of nonsense": {files: []file{{name: "etc/alpine-release", content: "3.20.1\n"},
			{name: "lib/apk/db/installed", content: "P:musl\nV:1.2.5-r0\n\nP:openssl\nV:not a version\n\n"}},
			want: pratique.StateIncomplete, say: "Invalid version"},
		"packages without an operating system": {files: []file{{name: "var/lib/dpkg/status", content: dpkgOf}},
			want: pratique.StateIncomplete, say: "no operating system found"},
		"operating system nobody supports": {files: []file{{name: "etc/os-release", content: "ID=arch\n"}, {name: "var/lib/pacman/local/ALPM_DB_VERSION", content: "9\n"}},
			want: pratique.StateIncomplete, say: `os-release names "arch"`},
		"broken jar": {files: debian(file{name: "opt/a-1.0.jar", content: "PK\x03\x04 cut off"}), want: pratique.StateIncomplete, say: "zip error"},
		"broken jar in a jar": {files: debian(file{name: "opt/a-1.0.jar", content: zipped(t, "inner.jar", []byte("no jar"))}),
			want: pratique.StateIncomplete, say: "Failed to parse"},
		"broken SBOM": {files: debian(file{name: "opt/bitnami/redis/.spdx-redis.spdx", content: `{"spdxVersion":"SPDX-2.3","packages":[`}),
			want: pratique.StateIncomplete, say: "SBOM"},
		"package.json of odd types": {files: debian(file{name: "n/node_modules/a/package.json", content: `{"name":"a","version":"1.0.0","dependencies":["x"]}`}),
			want: pratique.StateIncomplete, say: "JSON decode error"},
		"package.json that is none": {files: debian(file{name: "n/node_modules/a/test/package.json", content: `{ not json`}), want: pratique.StateScanned},
		// Trivy's parser panics on it (ParseWorkspaces), which ends a process whatever recovers.
		"panic in an analyzer": {files: debian(file{name: "n/package.json", content: `{"name":"a","version":"1.0.0","workspaces":{"packages":"x"}}`}),
			want: pratique.StateFailed, say: "an analyzer crashed: panic: "},
		"the same file twice": {files: debian(file{name: "var/lib/dpkg/status", content: dpkgOf}), want: pratique.StateIncomplete, say: "in the layer twice"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := gzipped(t, layer(t, tt.files...))
			inv, err := p.Layer(t.Context(), describe(b), bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			merged := pratique.Merge([]pratique.Inventory{inv}, &pratique.Inventory{Analyzer: inv.Analyzer})
			if merged.State() != tt.want {
				t.Errorf("state %v, want %v: %+v", merged.State(), tt.want, merged.Problems)
			}
			if !slices.ContainsFunc(merged.Problems, func(p pratique.Problem) bool { return strings.Contains(p.Message, tt.say) }) && tt.say != "" {
				t.Errorf("no problem says %q: %+v", tt.say, merged.Problems)
			}
		})
	}
}

// Bytes that are not the layer that was asked for.
func TestWrongBytes(t *testing.T) {
	p := realPool(t, worker.Config{})
	whole := layer(t, debian()...)
	gz := gzipped(t, whole)
	tests := map[string]struct {
		claimed pratique.Descriptor
		bytes   []byte
	}{
		"truncated gzip":             {describe(gz[:len(gz)-20]), gz[:len(gz)-20]},
		"truncated on the way":       {describe(gz), gz[:len(gz)-20]},
		"tar cut at a lucky place":   {describe(gz), gzipped(t, whole[:1024])},
		"another layer":              {describe(gz), gzipped(t, layer(t))},
		"larger than it says":        {pratique.Descriptor{MediaType: describe(gz).MediaType, Digest: describe(gz).Digest, Size: 10}, gz},
		"not gzip":                   {describe([]byte("not gzip")), []byte("not gzip")},
		"gzip around what is no tar": {describe(gzipped(t, bytes.Repeat([]byte("no tar"), 512))), gzipped(t, bytes.Repeat([]byte("no tar"), 512))},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inv, err := p.Layer(t.Context(), tt.claimed, bytes.NewReader(tt.bytes))
			if err != nil || inv.State() != pratique.StateFailed {
				t.Errorf("%+v, %v", inv, err)
			}
		})
	}
	t.Run("wrong diff_id", func(t *testing.T) {
		inv, err := p.Layer(t.Context(), describe(gz), bytes.NewReader(gz))
		if err != nil || inv.DiffID != digest.FromBytes(whole) {
			t.Fatalf("diffID %v, %v", inv.DiffID, err)
		}
		layers := []pratique.Inventory{inv}
		if got := pratique.DiffIDProblems(layers, []digest.Digest{digest.FromBytes(whole)}); got != nil {
			t.Errorf("right diff_id: %+v", got)
		}
		for _, claimed := range [][]digest.Digest{{digest.FromString("x")}, {}, {inv.DiffID, inv.DiffID}} {
			if got := pratique.DiffIDProblems(layers, claimed); len(got) != 1 || !got[0].Fatal {
				t.Errorf("claimed %v: %+v", claimed, got)
			}
		}
	})
}

// Every broken and hostile entry of the layout ends failed or incomplete, or is
// known to be harmless to an inventory.
func TestHostileImages(t *testing.T) {
	p := realPool(t, worker.Config{})
	files := layout(t)
	var entries []struct {
		Name   string
		Digest digest.Digest
	}
	if err := json.Unmarshal(files["images.json"], &entries); err != nil {
		t.Fatal(err)
	}
	want := map[string][]pratique.State{
		"broken-truncated-gzip": {pratique.StateFailed},
		"broken-diffid":         {pratique.StateFailed},
		"broken-not-gzip":       {pratique.StateFailed},
		"broken-size":           {pratique.StateFailed},
		"hostile-metadata":      {pratique.StateIncomplete, pratique.StateFailed},
		"hostile-tar":           {pratique.StateIncomplete, pratique.StateFailed},
		"hostile-deep-json":     {pratique.StateIncomplete, pratique.StateFailed},
	}
	blob := func(d digest.Digest) []byte { return files["blobs/sha256/"+d.Encoded()] }
	seen := 0
	for _, e := range entries {
		states, ok := want[e.Name]
		if !ok {
			continue
		}
		seen++
		t.Run(e.Name, func(t *testing.T) {
			img, err := pratique.ParseManifest("", blob(e.Digest))
			if err != nil {
				t.Fatal(err)
			}
			var layers []pratique.Inventory
			for _, l := range img.Layers {
				inv, err := p.Layer(t.Context(), l, bytes.NewReader(blob(l.Digest)))
				if err != nil {
					t.Fatal(err)
				}
				layers = append(layers, inv)
			}
			config, err := p.Config(t.Context(), blob(img.Config.Digest), pratique.OS{})
			if err != nil {
				t.Fatal(err)
			}
			var claimed struct {
				RootFS struct {
					DiffIDs []digest.Digest `json:"diff_ids"`
				}
			}
			if err := json.Unmarshal(blob(img.Config.Digest), &claimed); err != nil {
				t.Fatal(err)
			}
			merged := pratique.Merge(layers, &config)
			merged.Problems = append(merged.Problems, pratique.DiffIDProblems(layers, claimed.RootFS.DiffIDs)...)
			if !slices.Contains(states, merged.State()) {
				t.Errorf("state %v, want %v: %+v", merged.State(), states, merged.Problems)
			}
			t.Logf("%+v", merged.Problems)
		})
	}
	if seen != len(want) {
		t.Errorf("%d of %d images are in the layout", seen, len(want))
	}
}

func TestConfigs(t *testing.T) {
	p := realPool(t, worker.Config{})
	history := func(steps ...string) string {
		var h []map[string]string
		for _, s := range steps {
			h = append(h, map[string]string{"created_by": s})
		}
		b, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "history": h,
			"config": map[string]any{"Env": []string{"A=b"}}, "rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := map[string]struct {
		raw     string
		want    pratique.State
		ids     []string
		secrets []string
	}{
		"root":       {raw: history(`/bin/sh -c #(nop)  USER root`), want: pratique.StateScanned, ids: []string{"DS-0002", "DS-0026"}},
		"no history": {raw: `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`, want: pratique.StateScanned},
		"here-document": {raw: history("RUN /bin/sh -c set -e\nmake install\n# a comment\nrm -r /tmp/x\n # buildkit", "USER root"),
			want: pratique.StateScanned, ids: []string{"DS-0002", "DS-0026"}},
		"secret": {raw: strings.Replace(history("USER app"), "A=b", "TOKEN=ghp_"+strings.Repeat("a1B2c3D4e5F6", 3), 1),
			want: pratique.StateScanned, ids: []string{"DS-0026"}, secrets: []string{"github-pat"}},
		"no JSON":       {raw: `{"architecture"`, want: pratique.StateFailed},
		"nothing":       {raw: ``, want: pratique.StateFailed},
		"deeply nested": {raw: strings.Repeat(`{"config":`, 50_000), want: pratique.StateFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inv, err := p.Config(t.Context(), []byte(tt.raw), pratique.OS{Family: "debian", Name: "12"})
			if err != nil || inv.State() != tt.want {
				t.Fatalf("state %v, want %v: %+v, %v", inv.State(), tt.want, inv.Problems, err)
			}
			var ids, secrets []string
			for _, m := range inv.Misconfigurations {
				ids = append(ids, m.ID)
			}
			for _, s := range inv.Secrets {
				secrets = append(secrets, s.RuleID)
			}
			if slices.Sort(ids); !slices.Equal(ids, tt.ids) {
				t.Errorf("misconfigurations %v, want %v", ids, tt.ids)
			}
			if !slices.Equal(secrets, tt.secrets) {
				t.Errorf("secrets %v, want %v", secrets, tt.secrets)
			}
		})
	}
}

func jar(t *testing.T) string {
	return zipped(t, "META-INF/maven/g/a/pom.properties", []byte("groupId=g\nartifactId=a\nversion=1.0\n"))
}

func zipped(t *testing.T, name string, content []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func layout(t *testing.T) map[string][]byte {
	t.Helper()
	f, err := os.Open("../../testdata/images/images-small.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	files := make(map[string][]byte)
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[strings.TrimPrefix(h.Name, "./")], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}
