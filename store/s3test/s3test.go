// Package s3test starts S3 servers for tests: real ones (versitygw), on loopback, each
// on a directory of its own, ended with the test. A Proxy in front of one injects
// faults.
package s3test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/credentials"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/s3"
)

// Credentials and region of every server.
const (
	AccessKey = "pratique"
	SecretKey = "pratique-secret"
	Region    = "us-east-1"
)

// Server is a running S3 server.
type Server struct {
	Addr string // host:port
	Dir  string // buckets are its folders
	args []string
	exe  string
	cmd  *exec.Cmd
	tb   testing.TB
	next atomic.Int64
}

// Start starts a server. Where it cannot be built the test is skipped; under CI=true
// it fails.
func Start(tb testing.TB) *Server {
	tb.Helper()
	// With it the SDK writes into http.DefaultTransport whenever a client is made.
	if err := os.Unsetenv("AWS_CA_BUNDLE"); err != nil {
		tb.Fatal(err)
	}
	exe, err := program()
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("versitygw: %v", err)
		}
		tb.Skipf("versitygw: %v (`make bin/versitygw`)", err)
	}
	s := &Server{Addr: freeAddr(tb), Dir: tb.TempDir(), exe: exe, tb: tb}
	s.args = []string{
		"--access", AccessKey, "--secret", SecretKey, "--region", Region, "--port", s.Addr, "--quiet", "--keep-alive",
		"posix", "--sidecar", tb.TempDir(), s.Dir, // file systems for temporary files may have no extended attributes
	}
	s.Run()
	tb.Cleanup(s.Kill)
	return s
}

// Run starts the server again after Kill, with what its directory holds.
func (s *Server) Run() {
	s.tb.Helper()
	s.cmd = exec.Command(s.exe, s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	for range 1200 {
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	s.tb.Fatal("versitygw does not listen")
}

// Kill ends it as kill -9 does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Pause stops it where it is; Resume lets it go on.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

// Bucket makes a new bucket and returns its name.
func (s *Server) Bucket() string {
	s.tb.Helper()
	name := "bucket-" + strconv.FormatInt(s.next.Add(1), 10)
	if _, err := s.Client().CreateBucket(&s3.CreateBucketInput{Bucket: aws.String(name)}); err != nil {
		s.tb.Fatal(err)
	}
	return name
}

// Client returns a client of the server.
func (s *Server) Client() *s3.S3 {
	s.tb.Helper()
	sess, err := session.NewSession(aws.NewConfig().
		WithCredentials(credentials.NewStaticCredentials(AccessKey, SecretKey, "")).
		WithEndpoint("http://" + s.Addr).WithRegion(Region).WithS3ForcePathStyle(true).
		WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	if err != nil {
		s.tb.Fatal(err)
	}
	return s3.New(sess)
}

// Parameters of distribution's s3 driver for a bucket.
func (s *Server) Parameters(bucket string) map[string]any { return parameters(s.Addr, bucket) }

func parameters(addr, bucket string) map[string]any {
	return map[string]any{
		"accesskey": AccessKey, "secretkey": SecretKey, "region": Region, "bucket": bucket,
		"regionendpoint": "http://" + addr, "forcepathstyle": true, "secure": false,
	}
}

// program returns the server's program: bin/versitygw of the repository, else one
// that is built once and kept in the user's cache.
func program() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("no source")
	}
	root := filepath.Join(filepath.Dir(file), "..", "..")
	if exe := filepath.Join(root, "bin", "versitygw"); isFile(exe) {
		return exe, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "pratique-tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // the kernel frees it with the file
		return "", err
	}
	exe := filepath.Join(dir, "versitygw")
	cmd := exec.Command("go", "build", "-trimpath", "-o", exe, "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = filepath.Join(root, "tools", "versitygw")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return exe, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
