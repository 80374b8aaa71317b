//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// clientTimeout bounds one command of a client: the longest hold, five times.
const clientTimeout = 3 * time.Minute

// process is a server that ends with its test.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{} // closed when it ended
}

func startProcess(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, log: &logBuffer{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// A group of its own, killed whole; and nothing outlives a killed test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() && name == "pratique" {
			t.Logf("log of %s:\n%s", name, p.log.tail(3000))
		}
	})
	return p
}

// stop asks the process to end, kills it when it does not, and ends its group.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

// waitFor asks ready until it says nil.
func (p *process) waitFor(t testing.TB, ready func() error) {
	t.Helper()
	deadline := time.After(90 * time.Second)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended while starting: %s", p.name, p.log.tail(4000))
		case <-deadline:
			t.Fatalf("%s is not ready: %v\n%s", p.name, err, p.log.tail(4000))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// logBuffer collects output that several goroutines write and read.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) tail(n int) string {
	s := l.String()
	return s[max(0, len(s)-n):]
}

// result is what a command of a client ended with.
type result struct {
	stdout string
	output string // both streams, as a person sees them
	exit   int
	took   time.Duration
}

// run runs a client's command to its end.
func run(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	both, stdout := &logBuffer{}, &logBuffer{}
	cmd.Stdout, cmd.Stderr = teeLog{both, stdout}, both
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), ctx.Err(), both)
	}
	r := result{stdout: stdout.String(), output: both.String(), took: time.Since(began)}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		r.exit = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return r
}

type teeLog struct{ a, b *logBuffer }

func (l teeLog) Write(p []byte) (int, error) {
	if n, err := l.a.Write(p); err != nil {
		return n, err
	}
	return l.b.Write(p)
}

// need returns the path of a client of Debian. Without it the test is skipped;
// in CI it fails, because a suite that quietly shrinks is not green.
func need(t testing.TB, command string) string {
	t.Helper()
	p, err := exec.LookPath(command)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: `make tools` installs it", err)
		}
		t.Skipf("%v: `make tools` installs it", err)
	}
	return p
}

// ports are handed out one after another, below those that the kernel picks for
// connections: a port that it picks and that is given back may be another's before
// the server listens on it.
var ports = struct {
	sync.Mutex
	next int
}{next: 10_000 + os.Getpid()%10_000}

// freeAddr is a loopback address that nobody listens on, and that no other test of
// this run gets.
func freeAddr(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 10_000 {
		if ports.next++; ports.next >= 32_000 {
			ports.next = 10_000
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports.next))
		if err != nil {
			continue
		}
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	t.Fatal("no port is free on loopback")
	return ""
}

// answers is a readiness check: url answers 200.
func answers(url string) func() error {
	return func() error {
		res, err := http.Get(url)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	}
}
