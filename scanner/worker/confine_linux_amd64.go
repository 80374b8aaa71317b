package worker

import "golang.org/x/sys/unix"

// legacyCalls exist on amd64 only.
var legacyCalls = []uint32{unix.SYS_FORK, unix.SYS_VFORK}
