package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"pratique/tools/images"
)

// demonstrate pulls through Pratique at host as any client would and tells what
// came of it.
func demonstrate(ctx context.Context, set *images.Set, host string) error {
	content, err := set.Sample()
	if err != nil {
		return err
	}
	for _, n := range []string{images.Clean, images.MultiArch} {
		want, err := partial.Digest(content[n].(partial.WithRawManifest))
		if err != nil {
			return err
		}
		for _, round := range []string{"first pull: fetched, scanned, decided", "second pull: from the cache"} {
			began := time.Now()
			got, size, err := pull(ctx, host+"/"+sample+"/"+n)
			if err != nil {
				return fmt.Errorf("%s should have been served: %w", n, err)
			}
			if got != want {
				return fmt.Errorf("%s came as %s, upstream has %s", n, got, want)
			}
			say("\nserved   %s/%s/%s\n         %s, %d bytes, in %s (%s)",
				host, sample, n, got, size, time.Since(began).Round(time.Millisecond), round)
		}
	}

	began := time.Now()
	_, _, err = pull(ctx, host+"/"+sample+"/"+images.Vulnerable)
	refusal := new(transport.Error)
	switch {
	case err == nil:
		return fmt.Errorf("%s was served: it has CRITICAL findings with a fix and must not be", images.Vulnerable)
	case !errors.As(err, &refusal) || refusal.StatusCode != http.StatusForbidden || len(refusal.Errors) == 0:
		return fmt.Errorf("%s should have been refused with 403: %w", images.Vulnerable, err)
	}
	say("\nrefused  %s/%s/%s\n         in %s, with the message", host, sample, images.Vulnerable, time.Since(began).Round(time.Millisecond))
	say("%s", wrap(refusal.Errors[0].Message, 9, 100))
	return nil
}

// pull fetches everything that a client of linux/amd64 would and verifies every
// byte; the digest is that of what ref names, the size that of all content. A
// scan that takes longer than one request may is waited for.
func pull(ctx context.Context, ref string) (v1.Hash, int64, error) {
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return v1.Hash{}, 0, err
	}
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}),
		remote.WithRetryBackoff(remote.Backoff{Duration: time.Second, Factor: 1, Steps: 10}),
		remote.WithRetryStatusCodes(http.StatusTooManyRequests),
	}
	desc, err := remote.Get(parsed, opts...)
	if err != nil {
		return v1.Hash{}, 0, err
	}
	size := desc.Size
	img, err := desc.Image() // of an index: the child for the platform
	if err != nil {
		return v1.Hash{}, 0, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return v1.Hash{}, 0, err
	}
	size += int64(len(config))
	layers, err := img.Layers()
	if err != nil {
		return v1.Hash{}, 0, err
	}
	for _, l := range layers {
		n, err := drain(l)
		if err != nil {
			return v1.Hash{}, 0, err
		}
		size += n
	}
	return desc.Digest, size, nil
}

// drain reads a layer; go-containerregistry verifies its digest at the end.
func drain(l v1.Layer) (int64, error) {
	r, err := l.Compressed()
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, r)
	return n, errors.Join(err, r.Close())
}

// wrap breaks text into indented lines.
func wrap(text string, indent, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		if column > 0 && column+1+len(word) > width {
			b.WriteByte('\n')
			column = 0
		}
		if column == 0 {
			b.WriteString(strings.Repeat(" ", indent))
			column = indent
		} else {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

// next is what to type now.
func next(cfg config, logPath string) string {
	registry, admin := host(cfg.Registry.Listen), host(cfg.Admin.Listen)
	server := ""
	if admin != "127.0.0.1:5001" {
		server = " --server http://" + admin
	}
	return fmt.Sprintf(`
Pratique stays up until Ctrl-C. In another terminal:

  bin/pratique check%[4]s %[7]s/%[5]s   the verdict, rule by rule, and every finding
  bin/pratique images%[4]s                         what has been decided
  skopeo inspect --tls-verify=false docker://%[1]s/%[7]s/%[6]s
  podman pull --tls-verify=false %[1]s/%[7]s/%[6]s
  podman pull --tls-verify=false %[1]s/%[7]s/%[5]s   refused
  curl -s http://%[2]s/metrics | grep ^pratique_
  tail -f %[3]s

On a machine with internet the same server pulls through from docker.io:

  podman pull --tls-verify=false %[1]s/docker.io/library/alpine:3.20
`, registry, admin, logPath, server, images.Vulnerable, images.Clean, sample)
}
