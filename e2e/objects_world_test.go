//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// objects is a real S3 server behind a way that can be made bad.
type objects struct {
	addr    string
	errors  atomic.Int64 // per mille of requests that fail
	latency atomic.Int64 // nanoseconds before each request
	asked   sync.Map     // of each method, how often it was asked (*atomic.Int64)
}

// requests is how often each method was asked.
func (o *objects) requests() map[string]float64 {
	out := map[string]float64{}
	o.asked.Range(func(method, n any) bool {
		out[method.(string)] = float64(n.(*atomic.Int64).Load()) //nolint:forcetypeassert // counted below
		return true
	})
	return out
}

const (
	objectsKey    = "pratique"
	objectsSecret = "pratique-secret"
	bucket        = "pratique"
)

func startObjects(t *testing.T, host string) *objects {
	t.Helper()
	dir, addr := workdir(t, "objects"), freeAddr(t)
	if err := os.Mkdir(filepath.Join(dir, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t, "versitygw"), "--port", addr, "--access", objectsKey, "--secret", objectsSecret, "--quiet", "posix", dir)
	server := startProcess(t, "objects", cmd)
	server.waitFor(t, func() error {
		res, err := http.Get("http://" + addr + "/")
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	})
	o := new(objects)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: addr})
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorLog:  log.New(io.Discard, "", 0),
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	front := &http.Server{ErrorLog: proxy.ErrorLog, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if r.URL.Query().Has("list-type") {
			method = "LIST"
		}
		n, _ := o.asked.LoadOrStore(method, new(atomic.Int64))
		n.(*atomic.Int64).Add(1) //nolint:forcetypeassert // stored above
		if d := time.Duration(o.latency.Load()); d > 0 {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		if rand.Int64N(1000) < o.errors.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = front.Serve(l) }()
	t.Cleanup(func() { _ = front.Close() })
	o.addr = l.Addr().String()
	return o
}

// storage is the configuration of storage in o, with more keys.
func (o *objects) storage(more string) string {
	return fmt.Sprintf(`storage:
  driver: s3
  parameters: {regionendpoint: "http://%s", region: us-east-1, bucket: %s, accesskey: %s, secretkey: %s, secure: false, forcepathstyle: true}
%s`, o.addr, bucket, objectsKey, objectsSecret, more)
}
