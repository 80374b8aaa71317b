package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/service/s3"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
	"pratique/store/s3test"
)

// An object store that is away is not one that is empty, and when it is back
// everything goes on.
func TestObjectsAway(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string]s3test.Faults{"refused": {Refuse: true}, "errors": {Errors: 1}, "overloaded": {Errors: 1, Status: http.StatusServiceUnavailable}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, ctx := newHotWorld(t), t.Context()
			whole := w.replica("", 0)
			raw := noise(1, 50_000)
			d, other := w.put(whole, raw), digest.FromString("other")
			if err := whole.PutDocument(ctx, "x", raw); err != nil {
				t.Fatal(err)
			}
			b := open(t, store.BlobsConfig{Driver: "s3", Parameters: w.Parameters(w.bucket), Spool: t.TempDir(), Answer: 300 * time.Millisecond, Stall: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
			w.Set(faults)
			for call, err := range map[string]error{
				"Stat":          second(b.Stat(ctx, other)),
				"Open":          third(b.Open(ctx, d, 0)),
				"ReadAll":       second(b.ReadAll(ctx, d, 1<<20)),
				"Put":           b.Put(ctx, other, []byte("other")),
				"Delete":        b.Delete(ctx, d),
				"Walk":          b.Walk(ctx, func(digest.Digest, int64, time.Time) error { return nil }),
				"Document":      second(b.Document(ctx, "x")),
				"PutDocument":   b.PutDocument(ctx, "y", nil),
				"DocumentNames": firstOf(b.DocumentNames(ctx, "")),
				"Measure":       store.Measure(ctx, b),
			} {
				if !errors.Is(err, store.ErrUnreachable) || !errors.Is(err, store.ErrObjects) || errors.Is(err, pratique.ErrNotFound) || errors.Is(err, store.ErrMismatch) {
					t.Errorf("%s: %v", call, err)
				}
			}
			w.Set(s3test.Faults{})
			got, _, err := read(t, b, d, 0)
			for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); { // this machine may be slower than its time-out
				got, _, err = read(t, b, d, 0)
			}
			if err != nil || !bytes.Equal(got, raw) {
				t.Errorf("afterwards: %d bytes, %v", len(got), err)
			}
		})
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }
func firstOf(seq func(func(string, error) bool)) (err error) {
	seq(func(_ string, e error) bool { err = e; return false })
	return err
}

// Nothing hangs, whatever stands still.
func TestObjectsStall(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t)
	p, bucket := s.Proxy(t), s.Bucket()
	b := open(t, store.BlobsConfig{Driver: "s3", Parameters: p.Parameters(bucket), Spool: t.TempDir(), Answer: 2 * time.Second, Stall: 200 * time.Millisecond})
	raw := noise(1, 1<<20)
	d := digest.FromBytes(raw)
	s.Pause()
	if _, err := b.Stat(t.Context(), d); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("Stat while the server stands: %v", err)
	}
	s.Resume()
	slow := open(t, store.BlobsConfig{Driver: "s3", Parameters: p.Parameters(bucket), Spool: t.TempDir()})
	if err := slow.Put(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
	p.Set(s3test.Faults{Stall: 1})
	if got, _, err := read(t, b, d, 0); err == nil && !bytes.Equal(got, raw) || err != nil && !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("a body that stands: %d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Stat(ctx, d); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnreachable) {
		t.Errorf("the caller's own end: %v", err)
	}
}

// Who opens a store that refuses is told; one that is away is waited for.
func TestObjectsOpen(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t)
	bucket := s.Bucket()
	try := func(change map[string]any) error {
		parameters := s.Parameters(bucket)
		for k, v := range change {
			parameters[k] = v
		}
		b, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Driver: "s3", Parameters: parameters, Spool: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			err = b.Close()
		}
		return err
	}
	for name, change := range map[string]map[string]any{
		"another bucket": {"bucket": "nobodys"}, "another key": {"secretkey": "wrong"}, "another user": {"accesskey": "nobody"},
	} {
		if err := try(change); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	s.Kill()
	if err := try(nil); err != nil {
		t.Errorf("away: %v", err)
	}
}

// An upload that fails leaves nothing visible, and whoever streamed it has all of it.
func TestObjectsUploadFails(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t)
	p, bucket := s.Proxy(t), s.Bucket()
	w := &hotWorld{p, bucket, t}
	a, b := w.replica("", 1<<30), w.replica("", 0)
	for _, size := range []int{100_000, 12 << 20} { // by one request, and in parts
		raw := noise(uint64(size), size)
		d := digest.FromBytes(raw)
		up, err := a.Create(t.Context(), d, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		r, err := up.NewReader(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := up.Write(raw); err != nil {
			t.Fatal(err)
		}
		// Completing an upload is a POST, giving it up a DELETE, one request a PUT.
		only := []string{http.MethodDelete, http.MethodPut}
		if size > 1<<20 {
			only[1] = http.MethodPost
		}
		p.Set(s3test.Faults{Errors: 1, Only: only})
		if err := up.Commit(t.Context()); !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("Commit: %v", err)
		}
		p.Set(s3test.Faults{})
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("who streamed it got %d bytes, %v", len(got), err)
		}
		for name, replica := range map[string]*store.Blobs{"here": a, "elsewhere": b} {
			if _, err := replica.Stat(t.Context(), d); !errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := walk(t, b); len(got) > 0 {
			t.Errorf("visible: %v", got)
		}
		w.put(a, raw)
		if got, _, err := read(t, b, d, 0); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("stored again: %d bytes, %v", len(got), err)
		}
		if err := a.Delete(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
}

// What a crash left of an upload is given up when it is old, and only then.
func TestObjectsBrokenUploads(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t)
	bucket, client := s.Bucket(), s.Client()
	for _, key := range []string{"blobs/sha256/aa/x", "elsewhere/y"} {
		if _, err := client.CreateMultipartUpload(&s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: aws.String(key)}); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (n int) {
		out, err := client.ListMultipartUploads(&s3.ListMultipartUploadsInput{Bucket: aws.String(bucket)})
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Uploads)
	}
	b := openS3(t, s.Parameters(bucket), 0)
	if got := left(); got != 2 {
		t.Errorf("a young upload is somebody's: %d left", got)
	}
	if err := store.AbortUploads(t.Context(), b, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := left(); got != 1 {
		t.Errorf("%d left; want the one that is not ours", got)
	}
}

// Replicas: what one stored the others have at once; what one removes while another
// reads it is read to its end, and then is not there.
func TestReplicasShareBlobs(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	a, b := w.replica("", 0), w.replica("", 0)
	raw := noise(1, 8<<20)
	d := w.put(a, raw)
	if got, err := b.Stat(t.Context(), d); err != nil || got != int64(len(raw)) {
		t.Errorf("%d, %v", got, err)
	}
	r, _, err := b.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first := make([]byte, 1<<20)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	ev := store.NewEvictor(a, &usage{uses: []store.Use{{Blob: d, Image: d}}}, store.EvictorConfig{Log: slog.New(slog.DiscardHandler)})
	if out, err := ev.EvictTo(t.Context(), 0); err != nil || out.Blobs != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(first, rest...), raw) {
		t.Errorf("who was reading got %d bytes, %v", len(first)+len(rest), err)
	}
	if _, _, err := b.Open(t.Context(), d, 1<<20); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("a range of it afterwards: %v", err)
	}
	w.put(b, raw)
	if got, _, err := read(t, a, d, 0); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("fetched again: %d bytes, %v", len(got), err)
	}
}

// What another replica stored anew since it was counted is not evicted.
func TestReplicasEvictByTheStoresTime(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	a, b := w.replica("", 0), w.replica("", 0)
	raw := noise(1, 100_000)
	d := w.put(a, raw)
	ev := store.NewEvictor(a, &usage{uses: []store.Use{{Blob: d, Image: d}}}, store.EvictorConfig{Log: slog.New(slog.DiscardHandler)})
	if err := store.Measure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // object stores tell whole seconds
	if err := b.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	w.put(b, raw)
	if out, err := ev.EvictTo(t.Context(), 0); err != nil || out.Blobs != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if err := store.Measure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if out, err := ev.EvictTo(t.Context(), 0); err != nil || out.Blobs != 1 {
		t.Errorf("counted anew: %+v, %v", out, err)
	}
	if ev.DiskFull() {
		t.Error("room in the object store is none on the disk")
	}
}

func TestClockOfTheStore(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(3*time.Hour).UTC().Format(http.TimeFormat))
	}))
	defer s.Close()
	rt, skew := store.Clock(http.DefaultTransport)
	resp, err := (&http.Client{Transport: rt}).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if d := time.Duration(skew.Load()); d < 2*time.Hour || d > 4*time.Hour {
		t.Errorf("%s ahead", d)
	}
}

// An address is good for reading one object, for a while.
func TestRedirectURL(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	b := open(t, store.BlobsConfig{Driver: "s3", Parameters: w.Parameters(w.bucket), Spool: t.TempDir(), Redirect: true})
	raw, other := noise(1, 100_000), noise(2, 1000)
	d, o := w.put(b, raw), w.put(b, other)
	address, err := b.RedirectURL(t.Context(), d, http.MethodGet)
	if err != nil || !strings.Contains(address, "X-Amz-Expires=120&") || !strings.Contains(address, d.Encoded()) {
		t.Fatalf("%q, %v", address, err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	ask := func(method, url, rng string) (int, []byte) {
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rng != "" {
			r.Header.Set("Range", rng)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	if status, got := ask("GET", address, ""); status != http.StatusOK || !bytes.Equal(got, raw) {
		t.Errorf("%d, %d bytes", status, len(got))
	}
	if status, got := ask("GET", address, "bytes=1000-"); status != http.StatusPartialContent || !bytes.Equal(got, raw[1000:]) {
		t.Errorf("a range: %d, %d bytes", status, len(got))
	}
	for name, try := range map[string][2]string{
		"delete":         {"DELETE", address},
		"replace":        {"PUT", address},
		"another object": {"GET", strings.ReplaceAll(address, d.Encoded(), o.Encoded())},
		"longer":         {"GET", strings.Replace(address, "X-Amz-Expires=120", "X-Amz-Expires=86400", 1)},
		"unsigned":       {"GET", address[:strings.IndexByte(address, '?')]},
	} {
		if status, _ := ask(try[0], try[1], ""); status != http.StatusForbidden {
			t.Errorf("%s: %d", name, status)
		}
	}
	for name, none := range map[string]*store.Blobs{"off": w.replica("", 0), "a file": openFilesystem(t, t.TempDir())} {
		if got, err := none.RedirectURL(t.Context(), d, http.MethodGet); got != "" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	hot := open(t, store.BlobsConfig{Driver: "s3", Parameters: w.Parameters(w.bucket), Spool: t.TempDir(), Redirect: true, Hot: store.HotConfig{Dir: t.TempDir(), MaxBytes: 1 << 30}})
	h := w.put(hot, noise(3, 1000))
	if got, err := hot.RedirectURL(t.Context(), h, http.MethodGet); got != "" || err != nil {
		t.Errorf("hot: %q, %v", got, err)
	}
	if got, err := hot.RedirectURL(t.Context(), d, http.MethodGet); got == "" || err != nil {
		t.Errorf("not hot: %q, %v", got, err)
	}
	if got, err := b.RedirectURL(t.Context(), d, http.MethodPut); got != "" || err != nil {
		t.Errorf("PUT: %q, %v", got, err)
	}
}
