package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pratique"
	"pratique/scanner"
	"pratique/scanner/worker"
)

var _ scanner.Analyzer = (*worker.Pool)(nil)

// fakePool runs this test program as the analyzer. When the test ends, no child
// and no file of one may be left.
func fakePool(t *testing.T, c worker.Config) *worker.Pool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.Path, c.TempDir = self, t.TempDir()
	c.Workers = max(c.Workers, 1)
	p, err := worker.NewPool(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if left := children(t, self); len(left) > 0 {
			t.Errorf("children left: %v", left)
		}
		if left, _ := filepath.Glob(filepath.Join(c.TempDir, "*", "*")); len(left) > 0 {
			t.Errorf("files left: %v", left)
		}
	})
	return p
}

// children lists this process's children that run the given program, zombies
// included.
func children(t *testing.T, program string) []int {
	t.Helper()
	return childrenOf(t, os.Getpid(), program)
}

func childrenOf(t *testing.T, parent int, program string) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		comm := filepath.Base(program)[:min(len(filepath.Base(program)), 15)]
		if len(f) > 1 && f[1] == strconv.Itoa(parent) && strings.Contains(string(b), comm) {
			out = append(out, pid)
		}
	}
	return out
}

func TestPoolDeaths(t *testing.T) {
	limits := worker.Config{
		Memory: 192 << 20, Timeout: 4 * time.Second, TempDisk: 32 << 20, Reply: 1 << 20,
	}
	tests := []struct {
		order  string
		size   int // of the layer
		want   string
		reason string
	}{
		{order: "memory", want: "memory limit of 192 MiB exceeded", reason: "memory"},
		{order: "memory at once", want: "memory limit of 192 MiB exceeded", reason: "memory"},
		{order: "sleep", want: "not finished within 4s", reason: "time"},
		{order: "sleep", size: 4 << 20, want: "not finished within 4s", reason: "time"}, // the parent is blocked in a write
		{order: "disk", want: "temporary disk limit of 32 MiB exceeded", reason: "disk"},
		{order: "panic", want: "an analyzer crashed: panic: an analyzer's own goroutine", reason: "panic"},
		{order: "exit", size: 4 << 20, want: "the worker ended without an answer: exit status 3", reason: "exit"},
		{order: "killed", size: 4 << 20, want: `the worker was ended by signal "killed"`, reason: "killed"},
		{order: "large", want: "inventory of ", reason: "reply"},
		{order: "early", size: 4 << 20, want: "the worker answered before it had read the layer"},
		{order: "error", want: "the worker failed: no luck"},
		{order: "liar", want: "the worker answered for "},
		{order: "one file", want: "the worker failed: write "}, // file too large
	}
	for _, tt := range tests {
		t.Run(tt.order, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			c := limits
			c.Metrics = registry
			p := fakePool(t, c)
			d, layer := order(tt.order, tt.size)
			inv, err := p.Layer(t.Context(), d, bytes.NewReader(layer))
			if err != nil {
				t.Fatalf("a layer's doing is no error: %v", err)
			}
			if got := inv.State(); got != pratique.StateFailed {
				t.Errorf("state %v, want failed", got)
			}
			if inv.Layer != d.Digest || inv.Analyzer != fakeKey {
				t.Errorf("inventory of %q by %q", inv.Layer, inv.Analyzer)
			}
			if len(inv.Problems) != 1 || inv.Problems[0].Source != "worker" || !strings.HasPrefix(inv.Problems[0].Message, tt.want) {
				t.Errorf("problems %+v, want %q", inv.Problems, tt.want)
			}
			if tt.reason != "" {
				want := "# HELP pratique_worker_deaths_total Analyzer processes that ended before they answered, by reason.\n" +
					"# TYPE pratique_worker_deaths_total counter\npratique_worker_deaths_total{reason=\"" + tt.reason + "\"} 1\n"
				if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "pratique_worker_deaths_total"); err != nil {
					t.Error(err)
				}
			}
			// The pool lives on.
			d, layer = order("ok", 100)
			if inv, err := p.Layer(t.Context(), d, bytes.NewReader(layer)); err != nil || inv.State() != pratique.StateScanned {
				t.Errorf("after it: %+v, %v", inv, err)
			}
		})
	}
}

func TestPoolConfinement(t *testing.T) {
	p := fakePool(t, worker.Config{})
	t.Setenv("AWS_SECRET_ACCESS_KEY", "must not be seen by a child")
	ask := func(what string) []pratique.Problem {
		t.Helper()
		d, layer := order(what, 0)
		inv, err := p.Layer(t.Context(), d, bytes.NewReader(layer))
		if err != nil || inv.State() == pratique.StateFailed {
			t.Fatalf("%s: %+v, %v", what, inv, err)
		}
		return inv.Problems
	}
	for _, what := range []string{"network", "programs"} {
		for _, problem := range ask(what) {
			if !strings.Contains(problem.Message, "operation not permitted") && problem.Source != "dns" || problem.Message == "<nil>" {
				t.Errorf("%s: %s: %s", what, problem.Source, problem.Message)
			}
		}
	}
	var names []string
	for _, problem := range ask("environment") {
		names = append(names, problem.Source)
	}
	slices.Sort(names)
	want := []string{"HOME", "PATH", "PRATIQUE_WORKER", "PRATIQUE_WORKER_PARENT", "TMPDIR", "XDG_CACHE_HOME"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// A failed transfer is an error and nothing is kept; it is never taken for the
// layer's end.
func TestPoolReaderFails(t *testing.T) {
	p := fakePool(t, worker.Config{})
	broken := errors.New("connection reset")
	wrapped := errors.Join(io.EOF, broken) // errors.Is(err, io.EOF), and no end
	for name, r := range map[string]func([]byte) io.Reader{
		"at once":     func([]byte) io.Reader { return iotest.ErrReader(broken) },
		"in between":  func(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)) },
		"wrapped EOF": func(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(wrapped)) },
		"unexpected EOF": func(b []byte) io.Reader {
			return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, layer := order("ok", 1<<20)
			inv, err := p.Layer(t.Context(), d, r(layer[:1<<19]))
			if err == nil {
				t.Fatalf("no error; inventory %+v", inv)
			}
			if name != "unexpected EOF" && !errors.Is(err, broken) {
				t.Errorf("error %v does not wrap the reader's", err)
			}
			if inv.State() != pratique.StateUnknown {
				t.Errorf("inventory kept: %+v", inv)
			}
		})
	}
}

// stalled never delivers until it is closed.
type stalled struct{ closed chan struct{} }

func (s stalled) Read([]byte) (int, error) { <-s.closed; return 0, io.ErrClosedPipe }

func TestPoolCancel(t *testing.T) {
	p := fakePool(t, worker.Config{})
	for _, what := range []string{"sleep", "ok"} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		d, layer := order(what, 0)
		s := stalled{make(chan struct{})}
		began := time.Now()
		_, err := p.Layer(ctx, d, io.MultiReader(bytes.NewReader(layer), s))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v, want the context's", what, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: returned after %v", what, took)
		}
		close(s.closed)
		cancel()
	}
}

// The clock does not run while the child waits for bytes: a slow upstream is no
// reason to fail an image for ever.
func TestPoolSlowUpstream(t *testing.T) {
	p := fakePool(t, worker.Config{Timeout: 500 * time.Millisecond})
	d, layer := order("ok", 0)
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(layer)
		time.Sleep(1500 * time.Millisecond)
		_ = pw.Close()
	}()
	inv, err := p.Layer(t.Context(), d, pr)
	if err != nil || inv.State() != pratique.StateScanned {
		t.Errorf("%+v, %v", inv, err)
	}
}

// Beyond the pool's patience the transfer is at fault, not the layer.
func TestPoolPatience(t *testing.T) {
	p := fakePool(t, worker.Config{Patience: 500 * time.Millisecond})
	d, layer := order("ok", 0)
	s := stalled{make(chan struct{})}
	defer close(s.closed)
	if inv, err := p.Layer(t.Context(), d, io.MultiReader(bytes.NewReader(layer), s)); err == nil {
		t.Errorf("no error; %+v", inv)
	}
}

func TestPoolClose(t *testing.T) {
	p := fakePool(t, worker.Config{Workers: 2, Spares: 2})
	if _, err := p.Config(t.Context(), []byte("ok"), pratique.OS{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		d, layer := order("sleep", 0)
		_, err := p.Layer(context.Background(), d, bytes.NewReader(layer))
		ended <- err
	}()
	time.Sleep(300 * time.Millisecond)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a call under way survived Close")
	}
	d, layer := order("ok", 0)
	if _, err := p.Layer(t.Context(), d, bytes.NewReader(layer)); err == nil {
		t.Error("Layer after Close works")
	}
	if _, err := p.Config(t.Context(), nil, pratique.OS{}); err == nil {
		t.Error("Config after Close works")
	}
}

// The resident child answers many configs, is replaced after so many, after a
// death, and ends when idle.
func TestPoolConfig(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := fakePool(t, worker.Config{Spares: -1, ConfigAnswers: 3, ConfigIdle: time.Second, Timeout: 2 * time.Second})
	resident := func() int {
		t.Helper()
		c := children(t, self)
		if len(c) > 1 {
			t.Fatalf("children %v, want at most one", c)
		}
		if len(c) == 0 {
			return 0
		}
		return c[0]
	}
	ask := func(what string, want pratique.State) {
		t.Helper()
		inv, err := p.Config(t.Context(), []byte(what), pratique.OS{Family: "debian"})
		if err != nil || inv.State() != want {
			t.Fatalf("%s: %+v, %v", what, inv, err)
		}
	}
	ask("one", pratique.StateScanned)
	first := resident()
	ask("two", pratique.StateScanned)
	if got := resident(); got != first || got == 0 {
		t.Errorf("second config: child %d, want %d again", got, first)
	}
	ask("three", pratique.StateScanned)
	if got := resident(); got != 0 {
		t.Errorf("child %d after its last answer", got)
	}
	for _, what := range []string{"exit", "sleep", "large-is-fine", "liar", "error"} {
		want := pratique.StateFailed
		if what == "large-is-fine" {
			want = pratique.StateScanned
		}
		ask(what, want)
	}
	ask("four", pratique.StateScanned)
	deadline := time.Now().Add(10 * time.Second)
	for resident() != 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if got := resident(); got != 0 {
		t.Errorf("idle child %d still there", got)
	}
	inv, err := p.Config(t.Context(), make([]byte, pratique.MaxConfigSize+1), pratique.OS{})
	if err != nil || inv.State() != pratique.StateFailed {
		t.Errorf("too large a config: %+v, %v", inv.Problems, err)
	}
}

// A spare that died while idle is not given a layer.
func TestPoolDeadSpare(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := fakePool(t, worker.Config{})
	for range 3 {
		for _, pid := range children(t, self) {
			proc, err := os.FindProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			_ = proc.Kill()
		}
		time.Sleep(100 * time.Millisecond)
		d, layer := order("ok", 0)
		if inv, err := p.Layer(t.Context(), d, bytes.NewReader(layer)); err != nil || inv.State() != pratique.StateScanned {
			t.Fatalf("%+v, %v", inv, err)
		}
	}
}

func TestNewPoolRefuses(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "old")
	text := "#!/bin/sh\necho 'built without Trivy' >&2\nexit 1\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		config worker.Config
		want   string
	}{
		"no such program":      {worker.Config{Path: "/no/such/analyzer"}, "analyzer program"},
		"none to be found":     {worker.Config{}, "no pratique-analyzer beside "},
		"a child that cannot":  {worker.Config{Path: self, Options: worker.Options{JavaDB: "/none"}}, "no such java index"},
		"another program":      {worker.Config{Path: script}, "built without Trivy"},
		"no temporary storage": {worker.Config{Path: self, TempDir: "/no/such/directory"}, "temporary directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir())
			if tt.config.TempDir == "" {
				tt.config.TempDir = t.TempDir()
			}
			p, err := worker.NewPool(t.Context(), tt.config)
			if err == nil {
				_ = p.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
}

// When the server is killed its children die with it, and the next server
// removes their files.
func TestServerKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	server := exec.Command(self)
	server.Env = append(os.Environ(), serverVariable+"="+temp)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil { // "ready"
		t.Fatal(err)
	}
	pids := childrenOf(t, server.Process.Pid, self)
	if len(pids) == 0 {
		t.Fatal("the server has no children")
	}
	_ = server.Process.Kill()
	_ = server.Wait()
	for _, pid := range pids {
		for i := 0; syscall.Kill(pid, 0) == nil && !zombie(pid); i++ {
			if i == 100 {
				t.Fatalf("child %d survived", pid)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*", "*")); len(left) == 0 {
		t.Fatal("the killed server left nothing: this test tests nothing")
	}
	p, err := worker.NewPool(t.Context(), worker.Config{Path: self, TempDir: temp})
	if err != nil {
		t.Fatal(err)
	}
	other, err := worker.NewPool(t.Context(), worker.Config{Path: self, TempDir: temp})
	if err != nil {
		t.Fatal(err)
	}
	if dirs, _ := filepath.Glob(filepath.Join(temp, "*", "lock")); len(dirs) != 2 {
		t.Errorf("%v: want the directories of the two living pools", dirs)
	}
	if err := errors.Join(p.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// zombie: dead, and waiting for an init that this machine may not have.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

// A stalled upstream must not cost a goroutine once the caller closes its reader.
func TestPoolLeavesNoGoroutine(t *testing.T) {
	p := fakePool(t, worker.Config{})
	time.Sleep(200 * time.Millisecond) // the spare
	before := runtime.NumGoroutine()
	for range 5 {
		d, layer := order("exit", 0)
		s := stalled{make(chan struct{})}
		inv, err := p.Layer(t.Context(), d, io.MultiReader(bytes.NewReader(layer), s))
		close(s.closed)
		if err != nil || inv.State() != pratique.StateFailed {
			t.Fatalf("%+v, %v", inv, err)
		}
	}
	for i := 0; runtime.NumGoroutine() > before+2; i++ {
		if i == 50 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
