package worker

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// limit sets the child's own resource limits. They back the parent's watch,
// which looks only every so often.
func limit(s Settings) error {
	// RLIMIT_DATA counts what the runtime has mapped already, too.
	mapped, err := dataSize()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name     string
		resource int
		value    int64
		set      bool
	}{
		{"core", unix.RLIMIT_CORE, 0, true},
		{"data", unix.RLIMIT_DATA, mapped + 2*s.Memory, s.Memory > 0},
		{"fsize", unix.RLIMIT_FSIZE, s.FileSize, s.FileSize > 0},
		{"nofile", unix.RLIMIT_NOFILE, s.OpenFiles, s.OpenFiles > 0},
	} {
		if !l.set {
			continue
		}
		v := uint64(l.value)
		var have unix.Rlimit
		if err := unix.Getrlimit(l.resource, &have); err != nil {
			return fmt.Errorf("reading the limit %s: %w", l.name, err)
		}
		v = min(v, have.Max)
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("setting the limit %s: %w", l.name, err)
		}
	}
	return nil
}

// dataSize is what RLIMIT_DATA has counted so far: private writable mappings.
func dataSize() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading the size of the process: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if kib, ok := strings.CutPrefix(line, "VmData:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading the size of the process: %w", err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("reading the size of the process: no VmData")
}

// confine takes from this process, for good, what an analyzer never needs:
// sockets, new programs and processes, and a look into other processes.
func confine() error {
	// A parent that died before its death signal was set leaves this one orphaned.
	if want := os.Getenv(parentVariable); want != "" && want != strconv.Itoa(os.Getppid()) {
		return fmt.Errorf("the parent process is gone")
	}
	program, err := filter()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// TSYNC: all threads of the Go runtime, or none. On failure it returns the id
	// of a thread that could not be synchronised.
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("seccomp filter: %w", errno)
	}
	if r != 0 {
		return fmt.Errorf("seccomp filter: thread %d could not be confined", r)
	}
	return nil
}

// Offsets into struct seccomp_data (linux/seccomp.h), little endian.
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16
)

// filter is the BPF program. Denied calls fail with EPERM, so that an analyzer
// that tries gets an error, which is kept as a problem.
func filter() ([]unix.SockFilter, error) {
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("seccomp filter: architecture %s is not supported", runtime.GOARCH)
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	// unless skips the next instruction when the accumulator is not k.
	unless := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: 1}
	}
	errno := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

	p := []unix.SockFilter{
		load(dataArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: arch, Jt: 1},
		ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(dataNr),
	}
	if runtime.GOARCH == "amd64" {
		// The x32 numbers are a second door to the same calls.
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: 0x40000000, Jf: 1}, ret(errno(unix.EPERM)))
	}
	for _, nr := range deniedCalls() {
		p = append(p, unless(nr), ret(errno(unix.EPERM)))
	}
	return append(p,
		// clone3's flags lie in memory, where BPF cannot look: libraries fall back
		// to clone on ENOSYS.
		unless(unix.SYS_CLONE3), ret(errno(unix.ENOSYS)),
		// clone makes threads only.
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jf: 3},
		load(dataArg0),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_THREAD, Jt: 1},
		ret(errno(unix.EPERM)),
		ret(unix.SECCOMP_RET_ALLOW),
	), nil
}

// deniedCalls are those of every architecture and the architecture's own.
// io_uring is among them because it opens sockets without the system call socket.
func deniedCalls() []uint32 {
	return append([]uint32{
		unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_IO_URING_SETUP,
		unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD,
		unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_ADD_KEY,
	}, legacyCalls()...)
}
