//go:build linux && !amd64

package worker

// legacyCalls: newer architectures never had fork and vfork.
var legacyCalls []uint32
