// Package e2e runs the real binaries against a stock registry with the clients
// that people use: crane, skopeo, podman, containerd through CRI and ctr. Its
// tests carry the build tag e2e, need root and are run by `make e2e`.
//
// The harness is four kinds of things that live as long as their test:
// Upstream (distribution v3 as a process of its own, behind a tap that records
// and can slow each request), Pratique (bin/pratique with a configuration of its
// own), and the clients (Containerd, Podman, Skopeo, Crane), each with a store of
// its own, so that no test finds what another left. What a client shows is
// compared with docs/clients.md: the document is the golden file.
package e2e
