package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// child is one process, with everything that has to go when it goes.
type child struct {
	cmd    *exec.Cmd
	in     *os.File // the child's standard input
	out    *os.File // the child's standard output
	temp   string
	stderr tail
	hello  Hello
	// gone is closed when the process has been waited for; status is set before.
	gone   chan struct{}
	status error
	ending sync.Once
}

// startTimeout is how long a child may take to greet. A cold start reads
// 190 MB from disk, and the image-config child compiles its checks.
const startTimeout = time.Minute

// start makes a child and waits for its greeting. On any error nothing of it
// is left.
func start(c Config, kind Kind, stop <-chan struct{}) (_ *child, err error) {
	settings, err := json.Marshal(Settings{
		Kind: kind, Memory: c.Memory, FileSize: c.TempDisk, OpenFiles: c.OpenFiles, Uncompressed: c.Uncompressed, Options: c.Options,
	})
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	temp, err := os.MkdirTemp(c.TempDir, "")
	if err != nil {
		return nil, fmt.Errorf("temporary directory of a worker: %w", err)
	}
	ch := &child{temp: temp, gone: make(chan struct{})}
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pipe to a worker: %w", err), os.RemoveAll(temp))
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pipe from a worker: %w", err), inRead.Close(), inWrite.Close(), os.RemoveAll(temp))
	}
	ch.in, ch.out = inWrite, outRead
	ch.cmd = exec.Command(c.Path) //nolint:noctx // end is what ends a child, and waits for it
	ch.cmd.Dir = temp
	ch.cmd.Env = []string{
		settingsVariable + "=" + string(settings), parentVariable + "=" + strconv.Itoa(os.Getpid()),
		"TMPDIR=" + temp, "HOME=" + temp, "XDG_CACHE_HOME=" + temp, "PATH=",
	}
	ch.cmd.Stdin, ch.cmd.Stdout, ch.cmd.Stderr = inRead, outWrite, &ch.stderr
	// A grandchild that held stderr open would keep Wait from returning.
	ch.cmd.WaitDelay = time.Second
	ch.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = ch.cmd.Start()
	// Ours are the other ends.
	_, _ = inRead.Close(), outWrite.Close()
	if err != nil {
		_, _ = inWrite.Close(), outRead.Close()
		return nil, errors.Join(fmt.Errorf("starting the analyzer: %w", err), os.RemoveAll(temp))
	}
	go func() {
		ch.status = ch.cmd.Wait()
		close(ch.gone)
	}()
	if err := ch.greet(c, stop); err != nil {
		ch.end()
		return nil, err
	}
	return ch, nil
}

func (ch *child) greet(c Config, stop <-chan struct{}) error {
	greeted := make(chan error, 1)
	go func() { greeted <- readFrame(ch.out, 1<<20, &ch.hello) }()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	var err error
	select {
	case err = <-greeted:
	case <-timer.C:
		ch.end() // ends the read
		err = fmt.Errorf("no greeting within %v: %w", startTimeout, <-greeted)
	case <-stop:
		ch.end()
		err = errors.Join(errClosed, <-greeted)
	}
	switch {
	case errors.Is(err, errClosed):
		return err
	case err != nil:
		ch.end()
		return fmt.Errorf("the analyzer %s did not start: %w: %s", c.Path, err, ch.stderr.String())
	case ch.hello.Error != "":
		return fmt.Errorf("the analyzer %s did not start: %s", c.Path, ch.hello.Error)
	}
	return nil
}

// end kills the child's process group, waits for it and removes its files. It
// may be called more than once and from several goroutines; all return when the
// child is gone.
func (ch *child) end() {
	ch.ending.Do(func() {
		// The group's id is the child's: it cannot be another's before Wait
		// returned, and the child cannot leave it a process (clone is denied).
		select {
		case <-ch.gone:
		default:
			_ = syscall.Kill(-ch.cmd.Process.Pid, syscall.SIGKILL)
		}
		<-ch.gone
		_, _ = ch.in.Close(), ch.out.Close()
		_ = os.RemoveAll(ch.temp)
	})
	<-ch.gone
}

func (ch *child) dead() bool {
	select {
	case <-ch.gone:
		return true
	default:
		return false
	}
}

// memory is what the process holds: resident pages that are not of files. The
// program itself, shared by all children, does not count.
func (ch *child) memory() int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(ch.cmd.Process.Pid) + "/statm")
	if err != nil {
		return 0 // gone: its end is noticed elsewhere
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0
	}
	resident, err1 := strconv.ParseInt(string(f[1]), 10, 64)
	shared, err2 := strconv.ParseInt(string(f[2]), 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}

// disk is what the child's temporary files take, by blocks and not by length: a
// sparse file takes none. It stops counting above limit.
func (ch *child) disk(limit int64) int64 {
	var total int64
	// What cannot be looked at does not count: RLIMIT_FSIZE stands behind.
	_ = filepath.WalkDir(ch.temp, func(_ string, d os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we look
		}
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		if total > limit {
			return filepath.SkipAll
		}
		return nil
	})
	return total
}

// tail keeps the beginning and the end of what is written to it: Go's panics
// say what happened first, everything else says it last.
type tail struct {
	mu    sync.Mutex
	first []byte
	b     []byte
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first = append(t.first, p[:min(len(p), tailSize-len(t.first))]...)
	t.b = append(t.b, p...)
	if over := len(t.b) - tailSize; over > tailSize {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String is at most the last tailSize bytes.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-tailSize):])
}

func (t *tail) head() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.first)
}
