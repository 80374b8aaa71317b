//go:build linux && !amd64

package worker

// legacyCalls: newer architectures never had fork and vfork.
func legacyCalls() []uint32 { return nil }
