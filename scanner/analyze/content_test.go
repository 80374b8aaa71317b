//go:build goexperiment.jsonv2

package analyze

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"pratique"
)

const (
	typeTar  = "application/vnd.oci.image.layer.v1.tar"
	typeGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	typeZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// archive makes a tar of files given as name, content, name, content, …
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
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

func zstandard(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func describe(mediaType string, b []byte) pratique.Descriptor {
	return pratique.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// What is wrong with a layer's stream makes its inventory failed, and what is
// right about it is measured.
func TestStreams(t *testing.T) {
	a := theAnalyzer(t)
	plain := archive(t, "etc/debian_version", "12.5\n", "var/lib/dpkg/status", status("bash"))
	gz, zst := gzipped(t, plain), zstandard(t, plain)
	half := len(plain) / 2
	members := slices.Concat(gzipped(t, plain[:half]), gzipped(t, plain[half:]))
	frames := slices.Concat(zstandard(t, plain[:half]), zstandard(t, plain[half:]))
	skippable := slices.Concat([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y'}, zst)
	padded := slices.Concat(plain, make([]byte, 10240))
	tests := map[string]struct {
		mediaType string
		content   []byte
		change    func(*pratique.Descriptor)
		want      string // source of the one problem; none = clean
		fatal     bool
	}{
		"plain":                     {mediaType: typeTar, content: plain},
		"gzip":                      {mediaType: typeGzip, content: gz},
		"zstd":                      {mediaType: typeZstd, content: zst},
		"gzip in two members":       {mediaType: typeGzip, content: members},
		"zstd in two frames":        {mediaType: typeZstd, content: frames},
		"zstd, skippable frame":     {mediaType: typeZstd, content: skippable},
		"media type unknown":        {mediaType: "", content: gz},
		"padding":                   {mediaType: typeTar, content: padded},
		"no end of archive":         {mediaType: typeTar, content: plain[:len(plain)-1024]},
		"empty gzip":                {mediaType: typeGzip, content: gzipped(t, nil)},
		"empty archive":             {mediaType: typeTar, content: archive(t)},
		"data after the archive":    {mediaType: typeTar, content: slices.Concat(padded, bytes.Repeat([]byte("tail"), 128)), want: "layer"},
		"a second archive after":    {mediaType: typeTar, content: slices.Concat(plain, plain), want: "layer"},
		"plain called gzip":         {mediaType: typeGzip, content: plain, want: "mediatype", fatal: true},
		"gzip called plain":         {mediaType: typeTar, content: gz, want: "mediatype", fatal: true},
		"zstd called gzip":          {mediaType: typeGzip, content: zst, want: "mediatype", fatal: true},
		"text called gzip":          {mediaType: typeGzip, content: []byte(strings.Repeat("not a layer ", 100)), want: "mediatype", fatal: true},
		"text":                      {mediaType: typeTar, content: []byte(strings.Repeat("not a layer ", 100)), want: "layer", fatal: true},
		"truncated gzip":            {mediaType: typeGzip, content: gz[:len(gz)/2], want: "compression", fatal: true},
		"gzip without its checksum": {mediaType: typeGzip, content: gz[:len(gz)-8], want: "compression", fatal: true},
		"gzip header alone":         {mediaType: typeGzip, content: gz[:5], want: "compression", fatal: true},
		"garbage after gzip":        {mediaType: typeGzip, content: slices.Concat(gz, []byte("garbage that is longer than a header")), want: "compression", fatal: true},
		"wrong checksum":            {mediaType: typeGzip, content: slices.Concat(gz[:len(gz)-8], make([]byte, 8)), want: "compression", fatal: true},
		"truncated zstd":            {mediaType: typeZstd, content: zst[:len(zst)/2], want: "compression", fatal: true},
		"garbage after zstd":        {mediaType: typeZstd, content: slices.Concat(zst, []byte("garbage that is no frame")), want: "compression", fatal: true},
		"truncated tar":             {mediaType: typeTar, content: plain[:700], want: "layer", fatal: true},
		"truncated in padding":      {mediaType: typeTar, content: plain[:517], want: "layer", fatal: true},
		"another digest": {mediaType: typeGzip, content: gz, want: "digest", fatal: true,
			change: func(d *pratique.Descriptor) { d.Digest = digest.FromString("another") }},
		"another size": {mediaType: typeGzip, content: gz, want: "size", fatal: true,
			change: func(d *pratique.Descriptor) { d.Size++ }},
		"empty": {mediaType: "", content: nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := describe(tt.mediaType, tt.content)
			if tt.change != nil {
				tt.change(&d)
			}
			inv, err := a.Layer(t.Context(), d, iotest.OneByteReader(bytes.NewReader(tt.content)))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range inv.Problems {
				got = append(got, p.Source)
				if p.Layer != d.Digest || p.Message == "" {
					t.Errorf("problem %+v", p)
				}
			}
			var want []string
			if tt.want != "" {
				want = []string{tt.want}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("problems (-want +got):\n%s\n%+v", diff, inv.Problems)
			}
			state := pratique.StateScanned
			switch {
			case tt.fatal:
				state = pratique.StateFailed
			case tt.want != "":
				state = pratique.StateIncomplete
			}
			if inv.State() != state {
				t.Errorf("state %v, want %v", inv.State(), state)
			}
			if !tt.fatal && bytes.Contains(tt.content, gz) && inv.DiffID != digest.FromBytes(plain) {
				t.Errorf("diffID %v", inv.DiffID)
			}
		})
	}
}

func TestStreamReaderFails(t *testing.T) {
	a := theAnalyzer(t)
	gz := gzipped(t, archive(t, "a", strings.Repeat("x", 4096)))
	broken := errors.New("connection reset")
	for _, at := range []int{0, 1, 3, len(gz) / 2, len(gz) - 1, len(gz)} {
		inv, err := a.Layer(t.Context(), describe(typeGzip, gz), io.MultiReader(bytes.NewReader(gz[:at]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || inv.State() != pratique.StateUnknown {
			t.Errorf("cut at %d: %+v, error %v", at, inv, err)
		}
	}
}

func TestUncompressedLimit(t *testing.T) {
	a, err := New(Options{Uncompressed: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	small, large := gzipped(t, make([]byte, 1<<20)), gzipped(t, make([]byte, 1<<20+1))
	for _, tt := range []struct {
		b    []byte
		want pratique.State
	}{{small, pratique.StateScanned}, {large, pratique.StateFailed}} {
		inv, err := a.Layer(t.Context(), describe(typeGzip, tt.b), bytes.NewReader(tt.b))
		if err != nil || inv.State() != tt.want {
			t.Errorf("state %v, want %v: %+v, %v", inv.State(), tt.want, inv.Problems, err)
		}
	}
}

// status is a dpkg database with the named packages.
func status(names ...string) string {
	var b strings.Builder
	for _, n := range names {
		b.WriteString("Package: " + n + "\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: amd64\n\n")
	}
	return b.String()
}
