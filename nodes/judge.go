package nodes

import (
	"fmt"
	"strings"
)

// Answer is what a registry said when it was asked for the canary.
type Answer string

// Answers. The zero value is that nobody asked.
const (
	Unasked     Answer = ""
	Refused     Answer = "refused" // 403 to GET and HEAD
	RefusedBare Answer = "bare"    // 403 to GET, and a HEAD that keeps some clients from falling back
	Has         Answer = "has"     // the image can be had
	Lacks       Answer = "lacks"   // it answers, and the image cannot be had
	Silent      Answer = "silent"  // no answer of a registry
)

// Evidence is what was found out on a node.
type Evidence struct {
	Problems []Problem // of the node's files
	Pratique Answer    // asked from the node
	Upstream Answer    // asked from the node, past Pratique
	// Pulled is what the node's own client made of the canary.
	Pulled Pull
}

// Pull is one run of a node's client. The zero value is that none ran.
type Pull struct {
	Command string
	Ran     bool // the program was there and ended by itself
	Exit    int
	Output  string // both streams
}

// Outcome is what is known of a node.
type Outcome string

// Outcomes. The zero value is not one of them.
const (
	// Closed: an image that Pratique refuses and the upstream has could not be
	// pulled, and the files show no way around.
	Closed Outcome = "closed"
	// Open: there is a way around.
	Open Outcome = "open"
	// Unproven: neither could be shown.
	Unproven Outcome = "unproven"
)

// Judge weighs the evidence. Why says in sentences what the outcome rests on:
// all ways around, or everything that is missing for a proof, or the proof.
func Judge(e Evidence) (outcome Outcome, why []string) {
	var missing []string
	for _, p := range e.Problems {
		if p.Open {
			why = append(why, fmt.Sprintf("/%s: %s", p.Path, p.Text))
		}
	}
	switch e.Pratique {
	case Refused:
	case RefusedBare:
		missing = append(missing, "Pratique answers HEAD of this canary without refusing, which alone keeps containerd and docker from falling back; what they do when Pratique is down stays open. Use a repository named …/pratique-canary")
	case Has, Lacks:
		missing = append(missing, "Pratique does not refuse this canary, so that a pull of it shows nothing")
	case Silent, Unasked:
		missing = append(missing, "Pratique does not answer this node")
	}
	switch e.Upstream {
	case Has:
	case Lacks:
		missing = append(missing, "the upstream has no such image (or asks for a login), so that a node which falls back finds nothing there either. Push any image to a repository named …/pratique-canary, and name it with --canary")
	default:
		missing = append(missing, "the upstream does not answer this node: if its network closes the way on purpose, that holds; the configuration is not shown to")
	}
	refused := e.Pratique == Refused || e.Pratique == RefusedBare
	switch p := e.Pulled; {
	case !p.Ran:
		missing = append(missing, "no client of the runtime has pulled the canary")
	case p.Exit == 0 && refused:
		why = append(why, fmt.Sprintf("`%s` pulled an image that Pratique refuses: it came from somewhere else", p.Command))
	case p.Exit == 0:
		missing = append(missing, fmt.Sprintf("`%s` pulled the canary, and Pratique does not refuse it", p.Command))
	case !wasRefused(p.Output):
		missing = append(missing, fmt.Sprintf("`%s` failed, but does not say that it was refused", p.Command))
	}
	switch {
	case len(why) > 0:
		return Open, why
	case len(missing) > 0:
		return Unproven, missing
	}
	return Closed, []string{fmt.Sprintf("Pratique refuses the canary, the upstream has it and answers this node, and `%s` could not get it", e.Pulled.Command)}
}

// wasRefused reports whether a client that failed was refused, rather than
// missing its daemon or its rights. It decides between "closed" and "unproven"
// and never between "closed" and "open": that is decided by what was pulled.
func wasRefused(output string) bool {
	output = strings.ToLower(output)
	for _, word := range []string{"gate/canary", "403", "forbidden", "refused by rule"} {
		if strings.Contains(output, word) {
			return true
		}
	}
	return false
}

// Clients are the commands by which people and kubelet pull with a runtime, the
// best evidence first; the image follows. None are known for Talos, which has no
// shell: its talosctl runs elsewhere.
func Clients(r Runtime) [][]string {
	switch r {
	case Containerd:
		return [][]string{
			{"crictl", "pull"},
			// Reads certs.d alone: whether kubelet's pulls do is in config.toml.
			{"ctr", "images", "pull", "--hosts-dir", "/etc/containerd/certs.d"},
		}
	case CRIO:
		return [][]string{{"crictl", "pull"}}
	case Podman:
		return [][]string{{"podman", "pull"}, {"buildah", "pull", "--policy", "always"}}
	case Docker:
		return [][]string{{"docker", "pull"}}
	case K3s:
		return [][]string{{"k3s", "crictl", "pull"}}
	case RKE2:
		return [][]string{{"/var/lib/rancher/rke2/bin/crictl", "--config", "/var/lib/rancher/rke2/agent/etc/crictl.yaml", "pull"}}
	case Talos:
	}
	return nil
}
