package worker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BinaryName is the analyzer program's file name.
const BinaryName = "pratique-analyzer"

// Config of a Pool. Sizes are in bytes.
type Config struct {
	// Path of the analyzer program. If empty, pratique-analyzer beside the
	// running program, then in PATH.
	Path string
	// Workers is how many layers are analysed at once. If zero, the number of CPUs.
	Workers int
	// Spares is how many children are kept started, so that a layer does not
	// wait 0.1 to 0.3 s for one. If zero, 1; if negative, none.
	Spares int
	// Options of the analyzer.
	Options Options

	// Memory a child may hold, file mappings apart. If zero, 1 GiB.
	Memory int64
	// Timeout for one layer or config, not counting the time in which the child
	// waits for bytes that have not arrived. If zero, 5 min.
	Timeout time.Duration
	// Patience is how long a layer may take in all, the wait for its bytes
	// included: beyond it the transfer is at fault. If zero, 1 h.
	Patience time.Duration
	// Uncompressed is the largest layer, uncompressed. If zero, 10 GiB.
	Uncompressed int64
	// TempDisk is what a child's temporary files may take. If zero, 4 GiB.
	TempDisk int64
	// TempDir is where the children's private temporary directories are made; what
	// a killed server left there is removed. If empty, the system's.
	TempDir string
	// Reply is the largest answer that is read. If zero, 64 MiB.
	Reply int64
	// OpenFiles a child may hold. If zero, 4096.
	OpenFiles int64

	// ConfigAnswers is after how many image configs the resident child for them
	// is replaced. If zero, 1000.
	ConfigAnswers int
	// ConfigIdle is after how long without work the resident child for image
	// configs ends. If zero, 2 min.
	ConfigIdle time.Duration

	// Log. If nil, nothing is logged.
	Log *slog.Logger
	// Metrics. If nil, none are kept.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() (Config, error) {
	c.Workers = cmp.Or(max(c.Workers, 0), runtime.NumCPU())
	c.Spares = max(cmp.Or(c.Spares, 1), 0)
	c.Memory = cmp.Or(c.Memory, 1<<30)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Minute)
	c.Patience = cmp.Or(c.Patience, time.Hour)
	c.Uncompressed = cmp.Or(c.Uncompressed, 10<<30)
	c.TempDisk = cmp.Or(c.TempDisk, 4<<30)
	c.TempDir = cmp.Or(c.TempDir, os.TempDir())
	c.Reply = cmp.Or(c.Reply, 64<<20)
	c.OpenFiles = cmp.Or(c.OpenFiles, 4096)
	c.ConfigAnswers = cmp.Or(c.ConfigAnswers, 1000)
	c.ConfigIdle = cmp.Or(c.ConfigIdle, 2*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	path, err := find(c.Path)
	if err != nil {
		return Config{}, err
	}
	c.Path = path
	// The child works in its own directory.
	if c.TempDir, err = filepath.Abs(c.TempDir); err != nil {
		return Config{}, fmt.Errorf("temporary directory: %w", err)
	}
	if c.Options.JavaDB != "" {
		if c.Options.JavaDB, err = filepath.Abs(c.Options.JavaDB); err != nil {
			return Config{}, fmt.Errorf("java database: %w", err)
		}
	}
	return c, nil
}

// find returns the absolute path of the analyzer program.
func find(path string) (string, error) {
	if path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("analyzer program: %w", err)
		}
		return filepath.Abs(path)
	}
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), BinaryName)
		if _, err := exec.LookPath(beside); err == nil {
			return beside, nil
		}
	}
	path, lookErr := exec.LookPath(BinaryName)
	if lookErr != nil {
		return "", fmt.Errorf("analyzer program: no %s beside %s and none in PATH: %w", BinaryName, self, errors.Join(err, lookErr))
	}
	return filepath.Abs(path)
}
