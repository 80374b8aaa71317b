// Command demo is `make run`: it starts the sample upstream and Pratique with
// configs/dev.yaml, pulls an image that may be had and one that may not, shows
// what a client sees, and stays up until Ctrl-C.
//
//	demo [-config configs/dev.yaml] [-pratique bin/pratique] [-exit]
//
// With -exit it ends after the demonstration. The exit status is 0 only if both
// pulls ended as they should.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v4"

	"pratique/tools/images"
)

// sample is the key of the sample upstream in the configuration.
const sample = "lab"

// config is the part of Pratique's configuration that the demonstration needs.
type config struct {
	Registry struct {
		Listen string `yaml:"listen"`
	} `yaml:"registry"`
	Admin struct {
		Listen string `yaml:"listen"`
	} `yaml:"admin"`
	Upstreams map[string]struct {
		URL string `yaml:"url"`
	} `yaml:"upstreams"`
}

func main() {
	path := flag.String("config", "configs/dev.yaml", "configuration for Pratique")
	binary := flag.String("pratique", "bin/pratique", "Pratique's binary")
	logPath := flag.String("log", "var/pratique.log", "where Pratique's log goes")
	leave := flag.Bool("exit", false, "end after the demonstration")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *path, *binary, *logPath, *leave)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "\nmake run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path, binary, logPath string, leave bool) error {
	cfg, upstream, err := readConfig(path)
	if err != nil {
		return err
	}
	for what, addr := range map[string]string{
		"registry.listen": cfg.Registry.Listen, "admin.listen": cfg.Admin.Listen, "upstreams.lab.url": upstream,
	} {
		if err := free(addr); err != nil {
			return fmt.Errorf("%s is taken (%w): another Pratique? End it, or change %s in a copy of %s and run: make run CONFIG=COPY",
				addr, err, what, path)
		}
	}

	set, err := images.Open(images.Archive)
	if err != nil {
		return err
	}
	defer func() { _ = set.Close() }()
	stopUpstream, err := serveSample(ctx, set, upstream)
	if err != nil {
		return err
	}
	defer stopUpstream()

	p, err := start(binary, path, logPath)
	if err != nil {
		return err
	}
	defer p.stop()
	say("Pratique is starting; its log: %s", logPath)
	if err := p.ready(ctx, "http://"+cfg.Admin.Listen+"/readyz"); err != nil {
		return err
	}
	if err := demonstrate(ctx, set, host(cfg.Registry.Listen)); err != nil {
		return err
	}
	if leave {
		return nil
	}
	fmt.Print(next(cfg, logPath))
	select {
	case <-ctx.Done():
		say("\nending")
		return nil
	case err := <-p.done:
		p.done <- err
		return fmt.Errorf("pratique ended by itself: %w; see %s", errors.Join(err), logPath)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func readConfig(path string) (cfg config, upstream string, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return cfg, "", err
	}
	if err := yaml.Unmarshal(raw, &cfg); err != nil {
		return cfg, "", fmt.Errorf("%s: %w", path, err)
	}
	u, err := url.Parse(cfg.Upstreams[sample].URL)
	if err != nil || u.Host == "" || cfg.Registry.Listen == "" || cfg.Admin.Listen == "" {
		return cfg, "", fmt.Errorf("%s: the demonstration needs registry.listen, admin.listen and an upstream `%s`", path, sample)
	}
	return cfg, u.Host, nil
}

// free reports whether addr can be listened on.
func free(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// host is how a client on this machine names the listener addr.
func host(addr string) string {
	h, port, err := net.SplitHostPort(addr)
	if err != nil || h == "" || h == "0.0.0.0" || h == "::" {
		return "127.0.0.1:" + port
	}
	return addr
}

func serveSample(ctx context.Context, set *images.Set, addr string) (stop func(), err error) {
	h, err := set.Registry(ctx)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }() // ends when the server is closed
	say("A sample upstream serves on %s; Pratique calls it `%s`.", addr, sample)
	return func() { _ = srv.Close() }, nil
}

// server is the running binary.
type server struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan error // holds Wait's result, once
}

func start(binary, config, logPath string) (*server, error) {
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "serve", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C reaches demo alone, which ends Pratique in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", binary, err), log.Close())
	}
	s := &server{cmd: cmd, log: log, done: make(chan error, 1)}
	go func() { s.done <- cmd.Wait() }()
	return s, nil
}

// stop asks the server to end and kills its group when it does not.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.done
	}
	_ = s.log.Close()
}

// ready waits until the server says that it can decide.
func (s *server) ready(ctx context.Context, readyz string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	last := errors.New("no answer")
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, readyz, nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			line, _ := bufio.NewReader(res.Body).ReadString('\n')
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			last = errors.New(strings.TrimSpace(line))
		}
		select {
		case err := <-s.done:
			s.done <- err
			return fmt.Errorf("pratique did not start (%w):\n%s", errors.Join(err), tail(s.log.Name()))
		case <-ctx.Done():
			return fmt.Errorf("pratique is not ready: %w: %w", last, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail is the end of a file, for a message.
func tail(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-2000):])
}
