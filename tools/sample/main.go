// Command sample serves the sample images as a plain registry, so that there is
// something to pull through Pratique on a machine without internet.
//
//	sample [-listen 127.0.0.1:7001] [-archive testdata/images/images-small.tar]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pratique/tools/images"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7001", "address to serve on")
	archive := flag.String("archive", images.Archive, "tar of the OCI layout that holds the images")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, *listen, *archive)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, listen, archive string) error {
	set, err := images.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = set.Close() }()
	h, err := set.Registry(ctx)
	if err != nil {
		return err
	}
	srv := &http.Server{Addr: listen, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	fmt.Println("sample: serving on", listen)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
