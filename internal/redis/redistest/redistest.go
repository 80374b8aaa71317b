// Package redistest starts Redis servers for tests: real ones, on loopback, each in
// a directory of its own, ended with the test.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a running redis-server.
type Server struct {
	Addr   string // host:port
	Dir    string
	args   []string
	cmd    *exec.Cmd
	tb     testing.TB
	access *Access // nil: anybody may do anything
}

// Start starts redis-server with an append-only file that is synced at every write
// and what args say besides (`--appendfsync`, `everysec`). Without the program the
// test is skipped; under CI=true it fails.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return (*Access)(nil).Start(tb, args...)
}

// Start is the function of this name, for who has access.
func (a *Access) Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	Need(tb, "redis-server")
	s := &Server{Addr: FreeAddr(tb), Dir: tb.TempDir(), tb: tb, access: a}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.args = append([]string{
		"--port", port, "--bind", "127.0.0.1", "--dir", s.Dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always",
		"--logfile", filepath.Join(s.Dir, "redis.log"), "--daemonize", "no",
	}, args...)
	s.args = append(s.args, a.server(port)...)
	s.Run()
	tb.Cleanup(s.Kill)
	return s
}

// URL of the server.
func (s *Server) URL() string { return s.access.scheme("") + s.Addr }

// Run starts the server again after Kill, with what its files hold.
func (s *Server) Run() {
	s.tb.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.wait()
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

// Client returns a client that ends with the test.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(s.access.admin(s.Addr))
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *Server) wait() {
	s.tb.Helper()
	c := redis.NewClient(s.access.admin(s.Addr))
	defer c.Close()
	var err error
	for range 600 {
		if err = c.Ping(context.Background()).Err(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(s.Dir, "redis.log"))
	s.tb.Fatalf("redis-server does not answer: %v\n%s", err, log)
}

// Cluster starts n masters that share the slots, and returns the URL.
func Cluster(tb testing.TB, n int) (url string, servers []*Server) {
	tb.Helper()
	return (*Access)(nil).Cluster(tb, n)
}

// Cluster is the function of this name, for who has access.
func (a *Access) Cluster(tb testing.TB, n int) (url string, servers []*Server) {
	tb.Helper()
	for range n {
		servers = append(servers, a.Start(tb, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"))
	}
	const slots = 16384
	for i, s := range servers {
		args := []any{"CLUSTER", "ADDSLOTSRANGE", i * slots / n, (i+1)*slots/n - 1}
		if err := s.Client().Do(tb.Context(), args...).Err(); err != nil {
			tb.Fatal(err)
		}
		host, port, _ := net.SplitHostPort(servers[0].Addr)
		if i > 0 {
			if err := s.Client().ClusterMeet(tb.Context(), host, port).Err(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for _, s := range servers {
		until(tb, s.Addr+" is part of the cluster", func() error {
			info, err := s.Client().ClusterInfo(tb.Context()).Result()
			if err == nil && !contains(info, "cluster_state:ok", "cluster_known_nodes:"+strconv.Itoa(n)) {
				err = errors.New(info)
			}
			return err
		})
	}
	return a.scheme("+cluster") + servers[0].Addr, servers
}

func contains(s string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// Sentinel starts a master, a replica and three sentinels, and returns the URL.
func Sentinel(tb testing.TB) (url string, master, replica *Server) {
	tb.Helper()
	return SentinelAt(tb, "127.0.0.1")
}

// SentinelAt is Sentinel on another address of this machine.
func SentinelAt(tb testing.TB, host string) (url string, master, replica *Server) {
	tb.Helper()
	return (*Access)(nil).sentinelAt(tb, host)
}

// Sentinel is the function of this name, for who has access.
func (a *Access) Sentinel(tb testing.TB) (url string, master, replica *Server) {
	tb.Helper()
	return a.sentinelAt(tb, "127.0.0.1")
}

func (a *Access) sentinelAt(tb testing.TB, host string) (url string, master, replica *Server) {
	tb.Helper()
	Need(tb, "redis-sentinel")
	bind := []string{"127.0.0.1"}
	if host != bind[0] {
		bind = append(bind, host)
	}
	open := append([]string{"--protected-mode", "no", "--appendfsync", "everysec", "--repl-diskless-sync-delay", "0", "--bind"}, bind...)
	master = a.Start(tb, append(open, "--replica-announce-ip", host)...)
	_, port, _ := net.SplitHostPort(master.Addr)
	replica = a.Start(tb, append(open, "--replica-announce-ip", host, "--replicaof", host+" "+port)...)
	url = a.scheme("+sentinel")
	for i := range 3 {
		s := &Server{Addr: FreeAddr(tb), Dir: tb.TempDir(), tb: tb, access: a.ofSentinels()}
		_, own, _ := net.SplitHostPort(s.Addr)
		conf := filepath.Join(s.Dir, "sentinel.conf")
		text := fmt.Sprintf("port %s\nbind %s\nprotected-mode no\nsentinel announce-ip %s\ndir %s\nlogfile %s\nsentinel monitor m %s %s 2\nsentinel down-after-milliseconds m 1000\nsentinel failover-timeout m 5000\n",
			own, strings.Join(bind, " "), host, s.Dir, filepath.Join(s.Dir, "redis.log"), host, port) + a.sentinel(own)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.args = []string{conf, "--sentinel"}
		s.Run()
		tb.Cleanup(s.Kill)
		if i > 0 {
			url += ","
		}
		url += net.JoinHostPort(host, own)
	}
	replica.Follows()
	return url + "/m", master, replica
}

// Follows waits until a replica has what its master has.
func (s *Server) Follows() {
	s.tb.Helper()
	until(s.tb, "the replica follows", func() error {
		info, err := s.Client().Info(s.tb.Context(), "replication").Result()
		if err == nil && !contains(info, "master_link_status:up") {
			err = errors.New(info)
		}
		return err
	})
}

func until(tb testing.TB, what string, ok func() error) {
	tb.Helper()
	var err error
	for range 600 {
		if err = ok(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	tb.Fatalf("%s: never: %v", what, err)
}

// Need skips the test when a program is missing, or fails it under CI=true.
func Need(tb testing.TB, program string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatalf("%s is not installed: make tools", program)
	}
	tb.Skipf("%s is not installed: make tools", program)
}

// Ports of one test process.
var next atomic.Uint32

// FreeAddr is an address of loopback that nobody listens on now, below the range
// from which the kernel gives ports to connections.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		port := 10_000 + int(next.Add(1)*7919+uint32(os.Getpid())*104729)%20_000 //nolint:gosec // a spread
		if port+10_000 > 32_000 && port > 22_000 {
			continue // a cluster node listens 10,000 above
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	tb.Fatal("no free port")
	return ""
}
