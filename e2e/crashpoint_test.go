//go:build e2e

package e2e

import (
	endian "encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crashPoint is something that the server does and that can be seen from
// outside, in a folder of its data.
type crashPoint struct {
	name    string
	folders string // pattern below the data folder; empty: at random
	events  uint32
	file    string // what the name of the file must contain
	skip    int    // up to so many events are let pass
}

// crashPoints are the moments at which TestCrash kills, between two writes that
// must be one.
var crashPoints = []crashPoint{
	{name: "a random moment"},
	{name: "a blob begins", folders: "blobs/spool/*-*", events: unix.IN_CREATE, file: "-", skip: 6},
	{name: "a blob grows", folders: "blobs/spool/*-*", events: unix.IN_MODIFY, file: "-", skip: 20},
	{name: "a blob is renamed", folders: "blobs/spool/*-*", events: unix.IN_MOVED_FROM, file: "-", skip: 6},
	{name: "a folder of blobs is made", folders: "blobs/blobs/sha256", events: unix.IN_CREATE},
	{name: "the state is written", folders: ".", events: unix.IN_MODIFY, file: "state.db-wal", skip: 30},
	{name: "a worker starts", folders: "tmp/pratique-workers-[0-9]*", events: unix.IN_CREATE, skip: 2},
	{name: "a worker ends", folders: "tmp/pratique-workers-[0-9]*", events: unix.IN_DELETE, skip: 2},
}

// patience is how long a point is waited for: what it needs may not happen any
// more, and then the moment is a random one.
const patience = time.Second

// aim begins to watch for a moment. What it returns waits until the moment has
// come and returns its name.
func (c *crash) aim(t *testing.T, p crashPoint, random *rand.Rand) (strike func() string) {
	t.Helper()
	atRandom := func() string {
		time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		return crashPoints[0].name
	}
	folders, err := filepath.Glob(filepath.Join(c.dir, "data", p.folders))
	if err != nil {
		t.Fatal(err)
	}
	if p.folders == "" || len(folders) == 0 {
		return atRandom
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if _, err := unix.InotifyAddWatch(fd, f, p.events); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	events := os.NewFile(uintptr(fd), "inotify")
	skip := random.IntN(p.skip + 1)
	return func() string {
		defer func() { _ = events.Close() }()
		if !p.seen(t, events, skip) {
			return crashPoints[0].name
		}
		if random.IntN(2) == 0 { // or at once
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		}
		return p.name
	}
}

// seen returns true when the point was seen skip+1 times, false after patience.
func (p crashPoint) seen(t *testing.T, events *os.File, skip int) bool {
	t.Helper()
	if err := events.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 64<<10); ; {
		n, err := events.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		} else if err != nil {
			t.Fatal(err)
		}
		for raw := buffer[:n]; len(raw) >= unix.SizeofInotifyEvent; {
			size := unix.SizeofInotifyEvent + int(endian.NativeEndian.Uint32(raw[12:16]))
			name := strings.TrimRight(string(raw[unix.SizeofInotifyEvent:size]), "\x00")
			raw = raw[size:]
			if !strings.Contains(name, p.file) {
				continue
			}
			if skip--; skip < 0 {
				return true
			}
		}
	}
}
