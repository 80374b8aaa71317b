package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"pratique/scanner/worker/workertest"
	"pratique/tools/images"
	"pratique/web"
)

// repository is the root of the checkout.
const repository = "../.."

// demoDatabase is the vulnerability database that ships.
const demoDatabase = repository + "/configs/demo/trivy-db.tar.gz"

// sample is an upstream on loopback with the sample images. It remembers which
// blobs it was asked for.
type sample struct {
	set   *images.Set
	host  string
	close func()

	mu    sync.Mutex
	blobs []string
	slow  chan struct{} // if not nil, blobs wait for it before their last byte
}

func startSample(t *testing.T) *sample {
	t.Helper()
	set, err := images.Open(filepath.Join(repository, images.Archive))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	s := &sample{set: set}
	h, err := set.Registry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			h.ServeHTTP(w, r)
			return
		}
		s.mu.Lock()
		s.blobs = append(s.blobs, r.URL.Path)
		slow := s.slow
		s.mu.Unlock()
		if slow == nil {
			h.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		<-slow
		_, _ = w.Write(body[len(body)/2:])
	}))
	t.Cleanup(srv.Close)
	s.close = srv.Close
	s.host = strings.TrimPrefix(srv.URL, "http://")
	return s
}

// asked is how many blobs were fetched so far.
func (s *sample) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.blobs)
}

// product is a running `pratique serve`.
type product struct {
	registry, admin string // host:port
	stop            context.CancelFunc
	exited          chan int
	log             *logBuffer
}

// logBuffer is standard error, written by the server and read by the test.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// address finds what a listener said it listens on.
func (l *logBuffer) address(listener string) string {
	for line := range strings.Lines(l.String()) {
		var entry struct{ Msg, Listener, Address string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "listening" && entry.Listener == listener {
			return entry.Address
		}
	}
	return ""
}

// configuration writes a configuration with everything in directories of the
// test.
func configuration(t *testing.T, upstream, database string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "pratique.yaml")
	text := fmt.Sprintf(`dataDir: %q
registry: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams:
  lab: {url: "http://%s", private: true}
database: {sources: [], path: %q}
javaDatabase: {sources: []}
scanner: {workers: 1}
log: {format: json}
`, filepath.Join(dir, "data"), upstream, database)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startServe runs the program until the test ends.
func startServe(t *testing.T, file string) *product {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &product{stop: stop, exited: make(chan int, 1), log: new(logBuffer)}
	go func() {
		p.exited <- run(ctx, []string{"serve", "--config", file}, nil, io.Discard, p.log, []string{"PRATIQUE_ANALYZER=" + workertest.Binary(t)})
	}()
	t.Cleanup(func() {
		stop()
		if p.exited != nil {
			if code := p.wait(t); code != 0 {
				t.Errorf("exit %d", code)
			}
		}
		if t.Failed() {
			t.Logf("log:\n%s", p.log)
		}
	})
	eventually(t, func() bool {
		p.registry, p.admin = p.log.address("registry"), p.log.address("admin")
		select {
		case code := <-p.exited:
			p.exited = nil
			t.Fatalf("exit %d before it listened:\n%s", code, p.log)
		default:
		}
		return p.registry != "" && p.admin != ""
	})
	return p
}

// wait returns the exit code.
func (p *product) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-p.exited:
		p.exited = nil
		return code
	case <-time.After(time.Minute):
		t.Fatal("serve does not end")
		return -1
	}
}

func (p *product) ready(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { status, _ := get(t, "http://"+p.admin+"/readyz"); return status == 200 })
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 30 s")
		}
	}
}

// get asks once, on a connection of its own.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// pull fetches an image as a client does, every byte of it.
func (p *product) pull(t *testing.T, image string) (v1.Hash, error) {
	t.Helper()
	ref, err := name.ParseReference(p.registry+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	img, err := remote.Image(ref, remote.WithContext(t.Context()), remote.WithTransport(tr), remote.WithRetryStatusCodes())
	if err != nil {
		return v1.Hash{}, err
	}
	layers, err := img.Layers()
	if err != nil {
		return v1.Hash{}, err
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return v1.Hash{}, err
		}
		_, err = io.Copy(io.Discard, r) // verified against the digest by the library
		_ = r.Close()
		if err != nil {
			return v1.Hash{}, err
		}
	}
	return img.Digest()
}

func TestServe(t *testing.T) {
	upstream := startSample(t)
	p := startServe(t, configuration(t, upstream.host, demoDatabase))
	p.ready(t)
	content, err := upstream.set.Sample()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("clean arrives", func(t *testing.T) {
		got, err := p.pull(t, "lab/"+images.Clean)
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := content[images.Clean].(v1.Image).Digest(); got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
	})
	t.Run("vulnerable is refused and says why", func(t *testing.T) {
		_, err := p.pull(t, "lab/"+images.Vulnerable)
		if !refused(err) || !strings.Contains(err.Error(), "CVE-") {
			t.Errorf("%v", err)
		}
	})
	t.Run("the second time costs nothing upstream", func(t *testing.T) {
		before := upstream.asked()
		if _, err := p.pull(t, "lab/"+images.Clean); err != nil {
			t.Error(err)
		}
		if _, err := p.pull(t, "lab/"+images.Vulnerable); !refused(err) {
			t.Errorf("%v", err)
		}
		if n := upstream.asked() - before; n != 0 {
			t.Errorf("%d more blobs were fetched", n)
		}
	})
	server := "http://" + p.admin
	for ref, want := range map[string]int{
		"lab/" + images.Clean: exitOK, "lab/" + images.Vulnerable: exitRefused, "lab/" + images.MultiArch: exitOK,
		"lab/" + images.Mixed: exitOK, "lab/" + images.AllRefused: exitRefused, "lab/absent:1": exitError,
		upstream.host + "/" + images.Clean: exitOK,
	} {
		t.Run("check "+ref, func(t *testing.T) {
			if got := runCommand(t, server, "check", ref); got.code != want {
				t.Errorf("exit %d, want %d\n%s%s", got.code, want, got.out, got.errout)
			}
		})
	}
	t.Run("check of an index names its platforms", func(t *testing.T) {
		got := runCommand(t, server, "check", "lab/"+images.Mixed)
		for _, want := range []string{"linux/amd64", "linux/arm64", "deny", "allow", "CRITICAL"} {
			if !strings.Contains(got.out, want) {
				t.Errorf("no %q in\n%s", want, got.out)
			}
		}
	})
	t.Run("images", func(t *testing.T) {
		got := runCommand(t, server, "images", "-o", "json")
		var list web.ImageList
		if err := json.Unmarshal([]byte(got.out), &list); err != nil {
			t.Fatal(err)
		}
		outcomes := map[string]string{}
		for _, img := range list.Images {
			outcomes[img.Ref] = img.Outcome.String()
		}
		if outcomes["lab/"+images.Clean] != "allow" || outcomes["lab/"+images.Vulnerable] != "deny" {
			t.Errorf("%s", got.out)
		}
	})
	t.Run("db status", func(t *testing.T) {
		if got := runCommand(t, server, "db", "status"); got.code != 0 || !strings.Contains(got.out, "sha256:") || !strings.Contains(got.out, "trivy-db.tar.gz") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		_, body := get(t, server+"/metrics")
		for _, want := range []string{"pratique_build_info{", "pratique_database_age_seconds", "go_goroutines", "process_cpu_seconds_total"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s", want)
			}
		}
	})
}

// refused reports whether err is a policy's no and nothing else.
func refused(err error) bool {
	e, ok := err.(*transport.Error) //nolint:errorlint // the library returns it bare
	return ok && e.StatusCode == http.StatusForbidden && len(e.Errors) == 1 && e.Errors[0].Code == transport.DeniedErrorCode
}

func TestServeStartsWithNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	p := startServe(t, configuration(t, nobody, "/no/such/database.tar.gz"))
	admin := "http://" + p.admin
	if status, _ := get(t, admin+"/healthz"); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
	status, body := get(t, admin+"/readyz")
	if status != 503 || !strings.Contains(body, "FAIL  database: no vulnerability database") || !strings.Contains(body, "ok    state") {
		t.Errorf("/readyz: %d\n%s", status, body)
	}
	if status, body := get(t, "http://"+p.registry+"/v2/"); status != 200 {
		t.Errorf("/v2/: %d %s", status, body)
	}
	if status, body := get(t, "http://"+p.registry+"/v2/lab/demo/clean/manifests/1.0"); status != 502 && status != 504 {
		t.Errorf("upstream down: %d %s", status, body)
	}
	got := runCommand(t, admin, "db", "import", demoDatabase)
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if status, body := get(t, admin+"/readyz"); status != 200 {
		t.Errorf("/readyz with a database: %d\n%s", status, body)
	}
	if got := runCommand(t, admin, "db", "import", os.DevNull); got.code != exitError {
		t.Errorf("import of nothing: %+v", got)
	}
}

func TestServeFinishesRunningRequests(t *testing.T) {
	upstream := startSample(t)
	file := configuration(t, upstream.host, demoDatabase)
	p := startServe(t, file)
	p.ready(t)
	if got := runCommand(t, "http://"+p.admin, "check", "lab/"+images.Clean); got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	// The blobs of a second image are in the middle of their way when the signal
	// comes, and a pull waits for its verdict.
	release := make(chan struct{})
	upstream.mu.Lock()
	upstream.slow = release
	upstream.mu.Unlock()

	type answer struct {
		status int
		body   string
	}
	held := make(chan answer, 1)
	before := upstream.asked()
	go func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get("http://" + p.registry + "/v2/lab/demo/multiarch/manifests/1.0")
		if err != nil {
			held <- answer{0, err.Error()}
			return
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			held <- answer{res.StatusCode, err.Error()}
			return
		}
		held <- answer{res.StatusCode, string(b)}
	}()
	eventually(t, func() bool { return upstream.asked() > before }) // the held pull's scan waits for a layer
	p.stop()
	eventually(t, func() bool { // who comes later is told to come again, also for what is cached
		status, _ := get(t, "http://"+p.registry+"/v2/lab/demo/clean/manifests/1.0")
		return status == http.StatusServiceUnavailable
	})
	if status, body := get(t, "http://"+p.admin+"/readyz"); status != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("/readyz while it drains: %d\n%s", status, body)
	}
	close(release)
	if a := <-held; a.status != 200 || !strings.Contains(a.body, `"manifests"`) {
		t.Errorf("the request that was running: %+v", a)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit %d", code)
	}

	// What was learnt is there after the restart, with the upstream gone.
	upstream.close()
	again := startServe(t, file)
	again.ready(t)
	if _, err := again.pull(t, "lab/"+images.Clean); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

func TestServeSaysWhyItDoesNotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	broken := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(broken, []byte("name: x\nrulez: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	analyzer := workertest.Binary(t)
	for name, tc := range map[string]struct {
		sets []string
		want string
	}{
		"no analyzer":      {[]string{"scanner.analyzer=/does/not/exist"}, "/does/not/exist"},
		"not an analyzer":  {[]string{"scanner.analyzer=/bin/true"}, "the analyzer does not start"},
		"registry taken":   {[]string{"registry.listen=" + taken.Addr().String()}, "registry.listen"},
		"admin taken":      {[]string{"admin.listen=" + taken.Addr().String()}, "admin.listen"},
		"broken policy":    {[]string{"policies=" + broken}, "rules"},
		"missing policy":   {[]string{"policies=/no/policy.yaml"}, "/no/policy.yaml"},
		"no certificate":   {[]string{"registry.tls.cert=/no/cert.pem", "registry.tls.key=/no/key.pem"}, "/no/cert.pem"},
		"unwritable state": {[]string{"state.sqlite.path=/proc/state.db"}, "/proc"},
		"misspelt key":     {[]string{"registry.lisen=:1"}, "did you mean `listen`?"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"serve", "--config", configuration(t, "127.0.0.1:1", demoDatabase), "--set", "scanner.analyzer=" + analyzer}
			for _, s := range tc.sets {
				args = append(args, "--set", s)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var stderr logBuffer
			if code := run(ctx, args, nil, io.Discard, &stderr, nil); code != exitError {
				t.Errorf("exit %d", code)
			}
			_, last, _ := strings.Cut("\n"+stderr.String(), "\npratique: ")
			if !strings.Contains(last, tc.want) {
				t.Errorf("no %q in %q", tc.want, last)
			}
		})
	}
}
