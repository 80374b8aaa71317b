// Command criclient asks a container runtime for one image the way kubelet
// does: ImageService.PullImage over CRI. Debian has no crictl, and `ctr` takes
// another road through containerd (its own resolver, all platforms).
//
//	criclient [-timeout 2m] SOCKET pull|status|remove IMAGE
//
// It prints the image's reference or id, or the error's text as a kubelet event
// would carry it, and then exits 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	timeout := flag.Duration("timeout", 4*time.Minute, "give up after this long")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: criclient [-timeout D] SOCKET pull|status|remove IMAGE")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 3 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	out, err := run(ctx, flag.Arg(0), flag.Arg(1), flag.Arg(2))
	if err != nil {
		if s, ok := status.FromError(err); ok {
			fmt.Fprintf(os.Stderr, "%s: %s\n", s.Code(), s.Message())
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	fmt.Println(out)
}

func run(ctx context.Context, socket, verb, image string) (string, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", fmt.Errorf("dial %s: %w", socket, err)
	}
	defer func() { _ = conn.Close() }()
	images := cri.NewImageServiceClient(conn)
	spec := &cri.ImageSpec{Image: image}
	switch verb {
	case "pull":
		r, err := images.PullImage(ctx, &cri.PullImageRequest{Image: spec})
		return r.GetImageRef(), err
	case "status":
		r, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
		if err == nil && r.GetImage() == nil {
			err = errors.New("no such image: " + image)
		}
		return r.GetImage().GetId(), err
	case "remove":
		_, err := images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: spec})
		return "removed", err
	}
	return "", fmt.Errorf("unknown verb %q", verb)
}
