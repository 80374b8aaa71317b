package pratique_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

func TestParseRef(t *testing.T) {
	d := digest.FromString("x")
	for text, want := range map[string]pratique.Ref{
		"docker.io/library/nginx":                        {Registry: "docker.io", Repo: "library/nginx", Tag: "latest"},
		"docker.io/library/nginx:1.27":                   {Registry: "docker.io", Repo: "library/nginx", Tag: "1.27"},
		"docker.io/library/nginx@" + d.String():          {Registry: "docker.io", Repo: "library/nginx", Digest: d},
		"docker.io/library/nginx:1@" + d.String():        {Registry: "docker.io", Repo: "library/nginx", Tag: "1", Digest: d},
		"localhost:5000/a":                               {Registry: "localhost:5000", Repo: "a", Tag: "latest"},
		"[::1]:5000/a":                                   {Registry: "[::1]:5000", Repo: "a", Tag: "latest"},
		"lab/a__b/c---d/e.f_g:T-._1":                     {Registry: "lab", Repo: "a__b/c---d/e.f_g", Tag: "T-._1"},
		"lab/" + strings.Repeat("a", 255):                {Registry: "lab", Repo: strings.Repeat("a", 255), Tag: "latest"},
		"lab/a@" + digest.SHA512.FromString("").String(): {Registry: "lab", Repo: "a", Digest: digest.SHA512.FromString("")},
	} {
		got, err := pratique.ParseRef(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
	for _, text := range []string{
		"", "nginx", "/", "/a", "a/", "docker.io/", "docker.io//a", "docker.io/a//b", "docker.io/a/", "docker.io/A", "docker.io/a..b", "docker.io/../b", "docker.io/.",
		"docker.io/a:", "docker.io/a:.x", "docker.io/a:" + strings.Repeat("t", 129), "docker.io/a:b:c", "docker.io/a:b/c", "docker.io/a@", "docker.io/a@sha256:ab",
		"docker.io/a@" + d.String() + "@" + d.String(), "docker.io/a@sha384:" + strings.Repeat("a", 96), "docker.io/a b", "docker.io/a\n", "docker.io/a%2fb", "docker.io/ä",
		"docker.io/-a", "docker.io/a-", "docker.io/a___b", "user@docker.io/a", "user:pw@docker.io/a", "https://docker.io/a", "docker io/a", "docker.io\n/a", ":5000/a", "a:b/c",
		"..:1/a", "-a/b", "a:123456/b", "[::1/b", "lab/" + strings.Repeat("a", 256),
	} {
		if got, err := pratique.ParseRef(text); !errors.Is(err, pratique.ErrInvalid) || got != (pratique.Ref{}) {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("docker.io/library/nginx:1.27@" + digest.FromString("x").String())
	f.Add("[::1]:5000/a:b")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := pratique.ParseRef(text)
		if err != nil {
			if !errors.Is(err, pratique.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := pratique.ParseRef(ref.String())
		if err != nil || again != ref {
			t.Fatalf("%q reads back as %+v, %v", ref, again, err)
		}
		if strings.ContainsAny(ref.String(), " \n\r\t\\%?#\x00") || strings.Contains(ref.Repo, "..") {
			t.Fatalf("%q", ref)
		}
	})
}

func TestParseDigest(t *testing.T) {
	for _, text := range []string{digest.FromString("x").String(), digest.SHA512.FromString("x").String()} {
		if got, err := pratique.ParseDigest(text); err != nil || got.String() != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "sha256", "sha256:", "sha256:abc", ":" + strings.Repeat("a", 64), strings.Repeat("a", 64), "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("g", 64),
		"SHA256:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("a", 65), "sha384:" + strings.Repeat("a", 96), "md5:" + strings.Repeat("a", 32),
		"sha256+b64u:" + strings.Repeat("a", 43), "sha256:" + strings.Repeat("a", 62) + "..", "sha256:" + strings.Repeat("a", 64) + "\n",
	} {
		if got, err := pratique.ParseDigest(text); !errors.Is(err, pratique.ErrInvalid) || got != "" {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
}
