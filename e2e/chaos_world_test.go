//go:build e2e && chaos

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pratique/internal/redis/redistest"
)

// chaosNet is a network of this machine and one name space: everything but the last
// replica runs here, under two addresses, so that the way to Redis can be cut alone.
type chaosNet struct {
	space           string
	services, redis string // addresses
	inside          string // of the name space
}

func startChaosNet(t *testing.T) *chaosNet {
	t.Helper()
	id := os.Getpid() % 250
	n := &chaosNet{
		space: fmt.Sprintf("pratique%d", id), services: fmt.Sprintf("10.213.%d.1", id),
		redis: fmt.Sprintf("10.213.%d.2", id), inside: fmt.Sprintf("10.213.%d.10", id),
	}
	host, guest := fmt.Sprintf("pq%da", id), fmt.Sprintf("pq%db", id)
	t.Cleanup(func() { // what is not there is no matter
		_ = n.cut(false)
		_ = exec.Command("ip", "netns", "del", n.space).Run()
		_ = exec.Command("ip", "link", "del", host).Run()
	})
	for _, args := range [][]string{
		{"netns", "add", n.space},
		{"link", "add", host, "type", "veth", "peer", "name", guest, "netns", n.space},
		{"addr", "add", n.services + "/24", "dev", host},
		{"addr", "add", n.redis + "/24", "dev", host},
		{"link", "set", host, "up"},
		{"-n", n.space, "addr", "add", n.inside + "/24", "dev", guest},
		{"-n", n.space, "link", "set", guest, "up"},
		{"-n", n.space, "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command(need(t, "ip"), args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return n
}

// cut drops what Redis sends into the name space.
func (n *chaosNet) cut(cut bool) error {
	op := "del"
	if cut {
		op = "add"
	}
	return exec.Command("ip", "rule", op, "from", n.redis, "to", n.inside, "blackhole", "priority", "100").Run()
}

// fleet is several replicas on one Redis and one object store.
type fleet struct {
	net      *chaosNet
	up       *crashUpstream
	objects  *objects
	sentinel []string
	master   *redistest.Server
	second   *redistest.Server
	dead     *redistest.Server // the master that was killed
	sink     *listener
	replicas []*Pratique
	spaces   []string // name space of each; "" is this one
	at       []string // host:port of each registry
	downs    []atomic.Bool
}

const replicas = 3

func startFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{net: startChaosNet(t), downs: make([]atomic.Bool, replicas)}
	f.up = startCrashUpstreamAt(t, f.net.services)
	f.objects = startObjects(t, f.net.services)
	f.sink = listenAt(t, f.net.services)
	var sentinels string
	sentinels, f.master, f.second = redistest.SentinelAt(t, f.net.redis)
	f.sentinel = strings.Split(strings.TrimSuffix(strings.TrimPrefix(sentinels, "redis+sentinel://"), "/m"), ",")
	secret := filepath.Join(workdir(t, "secret"), "sink")
	if err := os.WriteFile(secret, []byte(sinkSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	extra := fmt.Sprintf(`storage:
  driver: s3
  parameters: {regionendpoint: "http://%s", region: us-east-1, bucket: %s, accesskey: %s, secretkey: %s, secure: false, forcepathstyle: true}
  hot: {maxSize: 256MiB}
state:
  redis: {url: %q}
notify: {sinks: {chaos: {url: %q, secretFile: %q, private: true, types: [verdict.changed, image.scanned]}}}
log: {level: debug}
`, f.objects.addr, bucket, objectsKey, objectsSecret, sentinels, f.sink.URL, secret)
	for n := range replicas {
		p := &Pratique{Registry: freeAddr(t), dir: workdir(t, fmt.Sprintf("replica%d", n+1))}
		host, space := f.net.services, ""
		if n == replicas-1 {
			host, space = f.net.inside, f.net.space
		}
		_, port, _ := net.SplitHostPort(p.Registry)
		p.Registry = net.JoinHostPort(host, port)
		_, port, _ = net.SplitHostPort(freeAddr(t))
		p.Admin = "http://" + net.JoinHostPort(host, port)
		text := p.render(t, &Upstream{Addr: f.up.addr}, Options{Hold: 10 * time.Second, Head: "403", TagTTL: "10m", Extra: extra})
		// Both names of the upstream would be one address.
		text = regexp.MustCompile(`(?m)^  lab: .*\n`).ReplaceAllString(text, "")
		if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f.replicas, f.spaces, f.at = append(f.replicas, p), append(f.spaces, space), append(f.at, p.Registry)
		f.start(t, n)
	}
	return f
}

// start starts a replica with what its directory holds.
func (f *fleet) start(t testing.TB, n int) {
	t.Helper()
	f.begin(t, n)
	f.replicas[n].server.waitFor(t, answers(f.replicas[n].Admin+"/readyz"))
	f.downs[n].Store(false)
}

// begin starts it and does not wait.
func (f *fleet) begin(t testing.TB, n int) {
	t.Helper()
	p := f.replicas[n]
	args := []string{binary(t, "pratique"), "serve", "--config", p.config()}
	if f.spaces[n] != "" {
		args = append([]string{"ip", "netns", "exec", f.spaces[n]}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = p.dir
	server := startProcess(t, "replica", cmd)
	p.server = server
	t.Cleanup(func() {
		if dir := os.Getenv("CHAOS_LOGS"); dir != "" {
			name := filepath.Join(dir, fmt.Sprintf("replica%d-%d.log", n+1, cmd.Process.Pid))
			if err := os.WriteFile(name, []byte(server.log.String()), 0o600); err != nil {
				t.Log(err)
			}
		}
	})
}

// kill is kill -9, of the workers too.
func (f *fleet) kill(n int) {
	f.downs[n].Store(true)
	f.replicas[n].server.kill()
}

// failoverAfter has the sentinels take the master for dead after a time.
func (f *fleet) failoverAfter(t testing.TB, d time.Duration) {
	t.Helper()
	for _, s := range f.sentinel {
		host, port, _ := net.SplitHostPort(s)
		if out, err := exec.Command(need(t, "redis-cli"), "-h", host, "-p", port, "SENTINEL", "SET", "m", "down-after-milliseconds", fmt.Sprint(d.Milliseconds())).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "OK" {
			t.Fatalf("sentinel %s: %v %s", s, err, out)
		}
	}
}

// current is the address of the master that the sentinels name.
func (f *fleet) current(t testing.TB) string {
	t.Helper()
	host, port, _ := net.SplitHostPort(f.sentinel[0])
	out, err := exec.Command("redis-cli", "-h", host, "-p", port, "SENTINEL", "get-master-addr-by-name", "m").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) != 2 {
		t.Fatalf("sentinel: %v %s", err, out)
	}
	return net.JoinHostPort(fields[0], fields[1])
}

// leader is the server that is master now, and the other one.
func (f *fleet) leader(t testing.TB) (master, other *redistest.Server) {
	_, port, _ := net.SplitHostPort(f.current(t))
	if _, own, _ := net.SplitHostPort(f.master.Addr); own == port {
		return f.master, f.second
	}
	return f.second, f.master
}

// failedOver waits until the sentinels name another master than the dead one.
func (f *fleet) failedOver(t testing.TB) {
	t.Helper()
	began := time.Now()
	for time.Since(began) < 30*time.Second {
		if m, _ := f.leader(t); m != f.dead {
			t.Logf("the sentinels named another master at the latest %v after its time", time.Since(began).Round(time.Millisecond))
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	host, port, _ := net.SplitHostPort(f.sentinel[0])
	for _, what := range []string{"master", "replicas"} {
		out, _ := exec.Command("redis-cli", "-h", host, "-p", port, "SENTINEL", what, "m").CombinedOutput()
		t.Logf("%s", strings.Join(strings.Fields(string(out)), " "))
	}
	t.Fatal("the sentinels name no other master")
}

var errStill = errors.New("not yet")

// kill ends the process and its group as kill -9 does.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// listenAt is a sink on another address.
func listenAt(t *testing.T, host string) *listener {
	t.Helper()
	l := newListener(nil)
	_ = l.Listener.Close()
	var err error
	if l.Listener, err = net.Listen("tcp", host+":0"); err != nil {
		t.Fatal(err)
	}
	l.Start()
	t.Cleanup(l.Close)
	return l
}
