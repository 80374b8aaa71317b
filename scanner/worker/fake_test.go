package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/worker"
)

// TestMain makes this test program its own analyzer: started by a Pool it is a
// child with the handlers below, which do what their layer tells them. So limits
// and deaths are tested without the real analyzer and without faults built into it.
func TestMain(m *testing.M) {
	settings, child, err := worker.ReadSettings()
	if !child {
		if temp := os.Getenv(serverVariable); temp != "" {
			serve(temp)
		}
		os.Exit(m.Run())
	}
	if err == nil {
		err = worker.Serve(context.Background(), settings, os.Stdin, os.Stdout, func(s worker.Settings) (worker.Handlers, error) {
			if s.Options.JavaDB != "" {
				return nil, errors.New("no such java index")
			}
			return obedient{}, nil
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serverVariable makes this program a server with children and with temporary
// files in the directory it names, until it is killed.
const serverVariable = "PRATIQUE_TEST_SERVER"

func serve(temp string) {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	p, err := worker.NewPool(context.Background(), worker.Config{Path: self, TempDir: temp, Workers: 1})
	if err != nil {
		panic(err)
	}
	d, layer := order("disk slowly", 0)
	go func() { _, _ = p.Layer(context.Background(), d, bytes.NewReader(layer)) }()
	time.Sleep(500 * time.Millisecond)
	fmt.Print("ready")
	time.Sleep(time.Hour)
}

const fakeKey = "fake-1"

// obedient does what it is told.
type obedient struct{}

func (obedient) Key() string { return fakeKey }

func (obedient) Config(_ context.Context, raw []byte, _ pratique.OS) (pratique.Inventory, error) {
	inv := pratique.Inventory{Layer: digest.FromBytes(raw), Analyzer: fakeKey}
	return perform(string(raw), inv, nil)
}

func (obedient) Layer(_ context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil {
		return pratique.Inventory{}, err
	}
	return perform(strings.TrimSpace(string(head)), pratique.Inventory{Layer: d.Digest, Analyzer: fakeKey}, r)
}

func perform(order string, inv pratique.Inventory, r io.Reader) (pratique.Inventory, error) {
	say := func(what string, err error) {
		inv.Problems = append(inv.Problems, pratique.Problem{Source: what, Message: fmt.Sprint(err)})
	}
	switch order {
	case "memory":
		var held [][]byte
		for {
			held = append(held, bytes.Repeat([]byte{1}, 16<<20))
			time.Sleep(time.Duration(len(held)))
		}
	case "memory at once":
		held := bytes.Repeat([]byte{1}, 4<<30)
		return inv, fmt.Errorf("held %d", len(held))
	case "sleep":
		time.Sleep(time.Hour)
	case "disk":
		for i := 0; ; i++ {
			_ = os.WriteFile(filepath.Join(os.TempDir(), fmt.Sprint(i)), make([]byte, 1<<20), 0o600)
			time.Sleep(time.Millisecond)
		}
	case "disk slowly":
		_ = os.WriteFile(filepath.Join(os.TempDir(), "x"), nil, 0o600)
		time.Sleep(time.Hour)
	case "one file":
		f, err := os.Create(filepath.Join(os.TempDir(), "one"))
		for err == nil {
			_, err = f.Write(make([]byte, 1<<20))
		}
		return inv, err
	case "panic":
		go panic("an analyzer's own goroutine")
		time.Sleep(time.Hour)
	case "exit":
		os.Exit(3)
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "early":
		return inv, nil
	case "error":
		return inv, errors.New("no luck")
	case "large":
		inv.Whiteouts = []string{strings.Repeat("x", 2<<20)}
	case "liar":
		inv.Layer = digest.FromString("another")
	case "network":
		_, err := net.Dial("tcp", "127.0.0.1:9")
		say("tcp", err)
		_, err = net.Dial("unix", "/run/none")
		say("unix", err)
		_, err = net.Listen("tcp6", "[::1]:0")
		say("listen", err)
		_, err = net.LookupHost("example.com")
		say("dns", err)
	case "programs":
		say("exec", exec.Command("/bin/true").Run())
		_, _, errno := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
		say("fork", errno)
	case "environment":
		for _, v := range os.Environ() {
			k, _, _ := strings.Cut(v, "=")
			say(k, nil)
		}
	}
	if r != nil {
		_, err := io.Copy(io.Discard, r)
		return inv, err
	}
	return inv, nil
}

// order makes a layer of the given size that tells the child what to do.
func order(what string, size int) (pratique.Descriptor, []byte) {
	b := append(fmt.Appendf(nil, "%-16s", what), make([]byte, size)...)
	return pratique.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}, b
}
