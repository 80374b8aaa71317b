package worker

import "golang.org/x/sys/unix"

// legacyCalls exist on amd64 only.
func legacyCalls() []uint32 { return []uint32{unix.SYS_FORK, unix.SYS_VFORK} }
