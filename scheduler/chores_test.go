package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
)

// fakeFleet lists images and tags.
type fakeFleet struct {
	images []store.Known
	tags   []pratique.Ref
	fail   error
}

func (f *fakeFleet) Images(context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		for _, k := range f.images {
			if !yield(k, nil) {
				return
			}
		}
		if f.fail != nil {
			yield(store.Known{}, f.fail)
		}
	}
}

func (f *fakeFleet) Image(_ context.Context, d digest.Digest) (pratique.Image, error) {
	for _, k := range f.images {
		if k.Image.Digest == d {
			return k.Image, nil
		}
	}
	if d == digest.FromString("index") {
		return pratique.Image{Digest: d, Kind: pratique.KindIndex, Children: []pratique.Descriptor{{Digest: digest.FromString("child")}}}, nil
	}
	return pratique.Image{}, pratique.ErrNotFound
}

func (f *fakeFleet) Tagged(context.Context) iter.Seq2[pratique.Ref, error] {
	return func(yield func(pratique.Ref, error) bool) {
		for _, ref := range f.tags {
			if !yield(ref, nil) {
				return
			}
		}
		if f.fail != nil {
			yield(pratique.Ref{}, f.fail)
		}
	}
}

func known(repo, tag, name string) store.Known {
	d := digest.FromString(name)
	return store.Known{
		Ref:   pratique.Ref{Registry: "docker.io", Repo: repo, Tag: tag, Digest: d},
		Image: pratique.Image{Digest: d, Kind: pratique.KindImage, Config: pratique.Descriptor{Digest: d, MediaType: "application/vnd.oci.image.config.v1+json"}},
	}
}

func patterns(t *testing.T, texts ...string) pratique.Patterns {
	t.Helper()
	ps, err := pratique.ParsePatterns(texts)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func TestRescanImages(t *testing.T) {
	fleet := &fakeFleet{images: []store.Known{
		known("library/nginx", "1.27", "nginx"), known("library/nginx", "", "child"), known("library/redis", "8", "redis"), known("lab/other", "1.27", "redis2"),
	}}
	index := pratique.Ref{Registry: "docker.io", Repo: "library/nginx", Tag: "1.28", Digest: digest.FromString("index")}
	alias := pratique.Ref{Registry: "docker.io", Repo: "mirror/redis", Tag: "8", Digest: digest.FromString("redis")}
	fleet.tags = []pratique.Ref{index, alias}
	for _, tc := range []struct {
		name  string
		match []string
		want  []string
	}{
		{"all", nil, []string{"nginx", "child", "redis", "redis2"}},
		{"a repository", []string{"docker.io/library/nginx"}, []string{"nginx", "child"}},
		{"a tag", []string{"docker.io/library/nginx:1.27"}, []string{"nginx"}},
		{"the tag of an index", []string{"docker.io/library/nginx:1.28"}, []string{"child"}},
		{"another name", []string{"docker.io/mirror/**"}, []string{"redis"}},
		{"nothing", []string{"ghcr.io/**"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := &fakeQueue{}
			c := scheduler.Chores{Queue: q, Catalog: fleet, Tags: fleet}
			note, err := c.Rescan(t.Context(), patterns(t, tc.match...))
			if err != nil || note != fmt.Sprint(len(tc.want), " scans opened") {
				t.Errorf("%q, %v", note, err)
			}
			var got []digest.Digest
			var want []digest.Digest
			for _, j := range q.jobs {
				got = append(got, j.Ref.Digest)
				if j.Priority != scheduler.PrioritySchedule {
					t.Errorf("%s at priority %s", j.Ref, j.Priority)
				}
			}
			for _, name := range tc.want {
				want = append(want, digest.FromString(name))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("an error is no end", func(t *testing.T) {
		broken := &fakeFleet{images: fleet.images, fail: errDisk}
		c := scheduler.Chores{Queue: &fakeQueue{}, Catalog: broken, Tags: broken}
		if note, err := c.Rescan(t.Context(), nil); !errors.Is(err, errDisk) || note != "4 scans opened" {
			t.Errorf("%q, %v", note, err)
		}
	})
}

// TestRescanSpaced: no more jobs are opened than are done.
func TestRescanSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fleet := &fakeFleet{}
		for i := range 100 {
			fleet.images = append(fleet.images, known("library/a", "", fmt.Sprint(i)))
		}
		q := &fakeQueue{}
		c := scheduler.Chores{Queue: q, Catalog: fleet, Tags: fleet, Ahead: 10}
		done := make(chan error, 1)
		go func() { _, err := c.Rescan(t.Context(), nil); done <- err }()
		finished := 0
		for finished < 100 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if n, _ := q.Len(t.Context()); n[scheduler.PrioritySchedule] > 15 {
				t.Fatalf("%d open", n[scheduler.PrioritySchedule])
			}
			j, err := q.Take(t.Context(), time.Now(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Finish(t.Context(), j, nil, time.Time{}); err != nil {
				t.Fatal(err)
			}
			finished++
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// upstreams answers questions about tags and remembers them.
type upstreams struct {
	asked  []string
	answer func(ref pratique.Ref, n int) error // n counts questions
}

func (u *upstreams) ask(ref pratique.Ref) error {
	u.asked = append(u.asked, ref.Registry+":"+ref.Tag)
	if u.answer == nil {
		return nil
	}
	return u.answer(ref, len(u.asked))
}

func tagged(registry string, n int) (out []pratique.Ref) {
	for i := range n {
		out = append(out, pratique.Ref{Registry: registry, Repo: "lab/a", Tag: fmt.Sprint("v", i), Digest: digest.FromString(fmt.Sprint(i))})
	}
	return out
}

func chore(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

func TestRevalidateTags(t *testing.T) {
	run := func(t *testing.T, u *upstreams, refs []pratique.Ref, match ...string) (string, error) {
		t.Helper()
		c := scheduler.Chores{Tags: &fakeFleet{tags: refs}, Configured: func(key string) bool { return key != "old.example" }, Revalidate: func(_ context.Context, ref pratique.Ref) (bool, error) {
			if ref.Digest != "" {
				t.Errorf("asked for %s, which is a digest", ref)
			}
			return ref.Tag == "v1", u.ask(ref)
		}}
		return c.RevalidateTags(t.Context(), patterns(t, match...))
	}
	t.Run("chosen tags, slowly", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u, start := &upstreams{}, time.Now()
			note, err := run(t, u, append(tagged("a", 4), append(tagged("b", 2), tagged("old.example", 9)...)...), "a/lab/*", "old.example/**")
			if err != nil || note != "4 tags asked for, 1 moved" || len(u.asked) != 4 || time.Since(start) < 800*time.Millisecond {
				t.Errorf("%q, %v, asked %v in %v", note, err, u.asked, time.Since(start))
			}
		})
	})
	t.Run("429 is waited for", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u, start := &upstreams{answer: func(_ pratique.Ref, n int) error {
				if n == 2 {
					return answer{status: 429, after: 5 * time.Minute}
				}
				return nil
			}}, time.Now()
			note, err := run(t, u, tagged("a", 3))
			if err != nil || time.Since(start) < 5*time.Minute || !slices.Equal(u.asked, []string{"a:v0", "a:v1", "a:v1", "a:v2"}) {
				t.Errorf("%q, %v, %v after %v", note, err, u.asked, time.Since(start))
			}
		})
	})
	t.Run("429 for hours ends it for that upstream alone", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{answer: func(ref pratique.Ref, _ int) error {
				if ref.Registry == "a" {
					return answer{status: 429, after: 6 * time.Hour}
				}
				return nil
			}}
			note, err := run(t, u, append(tagged("a", 50), tagged("b", 2)...))
			if err == nil || !strings.Contains(err.Error(), "a") || !slices.Equal(u.asked, []string{"a:v0", "b:v0", "b:v1"}) || !strings.HasPrefix(note, "2 tags asked for") {
				t.Errorf("%q, %v, %v", note, err, u.asked)
			}
		})
	})
	t.Run("429 without a time is tried three times", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{answer: func(pratique.Ref, int) error { return answer{status: 429} }}
			if _, err := run(t, u, tagged("a", 50)); err == nil || len(u.asked) != 3 {
				t.Errorf("%v, asked %d times", err, len(u.asked))
			}
		})
	})
	t.Run("an upstream that is down is left alone", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{answer: func(ref pratique.Ref, _ int) error {
				if ref.Registry == "a" {
					return answer{status: 502}
				}
				return nil
			}}
			note, err := run(t, u, append(tagged("a", 50), tagged("b", 2)...))
			if err == nil || len(u.asked) != 7 || !strings.Contains(note, "5 failed, first: a/lab/a:v0") {
				t.Errorf("%q, %v, asked %v", note, err, u.asked)
			}
		})
	})
	t.Run("single failures are told", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{answer: func(_ pratique.Ref, n int) error {
				if n%2 == 0 {
					return answer{status: 500}
				}
				return nil
			}}
			if note, err := run(t, u, tagged("a", 20)); err != nil || !strings.Contains(note, "10 failed") {
				t.Errorf("%q, %v", note, err)
			}
		})
	})
	t.Run("stopped", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			c := scheduler.Chores{Tags: &fakeFleet{tags: tagged("a", 5)}, Revalidate: func(context.Context, pratique.Ref) (bool, error) { cancel(); return false, nil }}
			if _, err := c.RevalidateTags(ctx, nil); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	})
}

func TestPrefetch(t *testing.T) {
	run := func(t *testing.T, u *upstreams, most int, match ...string) (string, error) {
		t.Helper()
		c := scheduler.Chores{
			Most: most,
			List: func(_ context.Context, ref pratique.Ref) ([]string, error) {
				return []string{"1.0", "1.1", "1.2", "2.0", "latest"}, u.ask(ref)
			},
			Newest: func(tags []string, n int) []string {
				tags = slices.Clone(tags)
				slices.Reverse(tags)
				return tags[:min(n, len(tags))]
			},
			Decide: func(_ context.Context, ref pratique.Ref) (pratique.Decision, error) {
				d := pratique.Decision{Ref: ref}
				if d.Verdict.Outcome = pratique.OutcomeAllow; ref.Tag == "1.1" {
					d.Verdict.Outcome = pratique.OutcomeDeny
				}
				return d, u.ask(ref)
			},
		}
		return c.Prefetch(t.Context(), patterns(t, match...))
	}
	t.Run("the newest that match", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{}
			note, err := run(t, u, 2, "a/lab/x:1.*", "b/lab/y:latest")
			if err != nil || note != "3 decided, 1 of them refused; 0 not finished" {
				t.Errorf("%q, %v", note, err)
			}
			if d := cmp.Diff([]string{"a:", "a:1.2", "a:1.1", "b:", "b:latest"}, u.asked); d != "" {
				t.Error(d)
			}
		})
	})
	t.Run("not finished is no failure", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{answer: func(ref pratique.Ref, _ int) error {
				if ref.Tag == "" {
					return nil
				}
				return fmt.Errorf("x: %w", pratique.ErrPending)
			}}
			if note, err := run(t, u, 50, "a/lab/x"); err != nil || note != "0 decided, 0 of them refused; 5 not finished" {
				t.Errorf("%q, %v", note, err)
			}
		})
	})
	t.Run("a list that cannot be had", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{answer: func(ref pratique.Ref, _ int) error {
				if ref.Registry == "a" {
					return answer{status: 429, after: time.Hour}
				}
				return nil
			}}
			note, err := run(t, u, 50, "a/lab/x", "b/lab/y:latest")
			if err == nil || !strings.HasPrefix(note, "1 decided") {
				t.Errorf("%q, %v", note, err)
			}
		})
	})
	t.Run("a pattern of many repositories", func(t *testing.T) {
		chore(t, func(t *testing.T) {
			u := &upstreams{}
			if _, err := run(t, u, 50, "a/**"); !errors.Is(err, pratique.ErrInvalid) || len(u.asked) != 0 {
				t.Errorf("%v, asked %v", err, u.asked)
			}
		})
	})
}
