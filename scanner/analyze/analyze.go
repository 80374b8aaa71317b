//go:build goexperiment.jsonv2

// Package analyze turns one layer or one image config into an inventory with
// Trivy's analyzers. It is Trivy's analysis half and the only importer of it:
// 190 MB of program, linked into cmd/pratique-analyzer alone.
//
// It does what trivy's artifact/image.inspectLayer does, from an io.Reader, and
// gives the same inventory, byte for byte. Beyond that it makes sure that
// nothing fails in silence: the layer's digest, size and compression are
// checked, what Trivy's analyzers log and drop becomes a problem (log.go), and
// so does what its walker would skip although a package database hides there
// (paths.go). It knows nothing of processes and limits; those are scanner/worker's.
package analyze

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	javadbschema "github.com/aquasecurity/trivy-java-db/pkg/db"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	_ "github.com/aquasecurity/trivy/pkg/fanal/analyzer/all" // every analyzer registers itself
	"github.com/aquasecurity/trivy/pkg/fanal/artifact"
	"github.com/aquasecurity/trivy/pkg/fanal/handler"
	_ "github.com/aquasecurity/trivy/pkg/fanal/handler/all" // without: packages owned by the OS are reported twice
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/javadb"
	"github.com/aquasecurity/trivy/pkg/misconf"
	_ "modernc.org/sqlite" // without: rpmdb.sqlite has no packages and no error
)

// Options choose what is analysed.
type Options struct {
	// JavaDB is a directory with Trivy's Java index (trivy-java.db and
	// metadata.json). If empty, an empty one is made: jars are then identified by
	// their own metadata alone, not by their digest.
	JavaDB string
	// Misconfigurations also checks configuration files inside layers.
	Misconfigurations bool
	// Licenses also looks for licences in files inside layers.
	Licenses bool
	// TempDir is where an empty Java index is made. If empty, the system's.
	TempDir string
	// Uncompressed is the largest layer, uncompressed, in bytes. If zero, no limit.
	Uncompressed int64
}

// parallel is how many files are analysed at once, as in the trivy command.
const parallel = 5

// inventoryVersion is part of the key: raise it when this package's own rules
// or the inventory's form change.
const inventoryVersion = 1

// Analyzer analyses layers and image configs. Trivy keeps state in package
// variables (the Java index, the default logger), so a process has one, and it
// does one thing at a time.
type Analyzer struct {
	options  artifact.Option
	group    analyzer.AnalyzerGroup
	handlers handler.Manager
	limit    int64
	key      string
	javaDir  string // ours, removed by Close
	log      *recorder
	misconf  func() (analyzer.ConfigAnalyzerGroup, error)

	mu sync.Mutex // one analysis at a time: the recorder is the process's
}

// New prepares the analyzers. It takes over slog's default logger, which
// Trivy's analyzers capture when they are made.
func New(o Options) (_ *Analyzer, err error) {
	a := &Analyzer{limit: o.Uncompressed, log: newRecorder()}
	slog.SetDefault(slog.New(a.log))
	javaVersion, err := a.initJava(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = a.Close()
		}
	}()
	a.options = artifactOptions(o)
	if a.group, err = analyzer.NewAnalyzerGroup(a.options.AnalyzerOptions()); err != nil {
		return nil, fmt.Errorf("analyzers: %w", err)
	}
	if a.handlers, err = handler.NewManager(a.options); err != nil {
		return nil, fmt.Errorf("post handlers: %w", err)
	}
	// The versions need no compiled checks; the checks take a second.
	configs, err := analyzer.NewConfigAnalyzerGroup(a.options.ConfigAnalyzerOptions())
	if err != nil {
		return nil, fmt.Errorf("config analyzers: %w", err)
	}
	a.misconf = sync.OnceValues(a.compile)
	if a.key, err = key(o, a.group.AnalyzerVersions(), configs.AnalyzerVersions(), a.handlers.Versions(), javaVersion); err != nil {
		return nil, err
	}
	// What was logged until here is of no layer.
	a.log.take()
	return a, nil
}

// Key names analyzer and handler versions, options, module versions and the
// Java index: whatever makes another inventory of the same bytes.
func (a *Analyzer) Key() string { return a.key }

// Close removes what New made on disk.
func (a *Analyzer) Close() error {
	if a.javaDir == "" {
		return nil
	}
	return os.RemoveAll(a.javaDir)
}

// Warm compiles the checks of image configs, so that the first config does not
// wait for them.
func (a *Analyzer) Warm() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.misconf()
	a.log.take()
	return err
}

func artifactOptions(o Options) artifact.Option {
	// As `trivy image --scanners vuln,secret --image-config-scanners misconfig,secret
	// --offline-scan`: see pkg/commands/artifact/run.go, ScanImage and disabledAnalyzers.
	var disabled []analyzer.Type
	disabled = append(disabled, analyzer.TypeLockfiles...)
	disabled = append(disabled,
		analyzer.TypeApkCommand, // asks a server for the history of Alpine packages
		analyzer.TypeExecutable, // asks Rekor
		analyzer.TypeRpmArchive, // experimental
	)
	if !o.Misconfigurations {
		disabled = append(disabled, analyzer.TypeConfigFiles...)
	}
	if !o.Licenses {
		disabled = append(disabled, analyzer.TypeLicenseFile)
	}
	return artifact.Option{
		Type:              ftypes.TypeContainerImage,
		DisabledAnalyzers: disabled,
		Parallel:          parallel,
		NoProgress:        true,
		Offline:           true,
		DetectionPriority: ftypes.PriorityPrecise,
		MisconfScannerOption: misconf.ScannerOption{
			Namespaces:     rego.BuiltinNamespaces(),
			RegoErrorLimit: regoErrorLimit,
		},
		LicenseScannerOption: analyzer.LicenseScannerOption{Full: o.Licenses, ClassifierConfidenceLevel: 0.9},
	}
}

// regoErrorLimit is the trivy command's default.
const regoErrorLimit = 10

// compile makes the config analyzers with compiled checks.
func (a *Analyzer) compile() (analyzer.ConfigAnalyzerGroup, error) {
	o := a.options
	scanner, err := misconf.InitRegoScanner(o.MisconfScannerOption)
	if err != nil {
		return analyzer.ConfigAnalyzerGroup{}, fmt.Errorf("compiling the embedded checks: %w", err)
	}
	o.MisconfScannerOption.RegoScanner = scanner
	g, err := analyzer.NewConfigAnalyzerGroup(o.ConfigAnalyzerOptions())
	if err != nil {
		return analyzer.ConfigAnalyzerGroup{}, fmt.Errorf("config analyzers: %w", err)
	}
	return g, nil
}

// initJava points Trivy at a Java index, without which a jar anywhere fails the
// layer, and returns the index's version for the key.
func (a *Analyzer) initJava(o Options) (string, error) {
	cache, err := os.MkdirTemp(o.TempDir, "pratique-java-")
	if err != nil {
		return "", fmt.Errorf("java index: %w", err)
	}
	a.javaDir = cache
	dir, version := filepath.Join(cache, "java-db"), "none"
	if o.JavaDB != "" {
		if version, err = linkJava(o.JavaDB, dir); err != nil {
			return "", err
		}
	} else if err := emptyJava(dir); err != nil {
		return "", err
	}
	javadb.Init(cache, nil, true, true, ftypes.RegistryOptions{})
	// Trivy opens the index when it meets the first jar; a broken one is better
	// known now.
	if err := javadb.Update(); err != nil {
		return "", fmt.Errorf("java index: %w", err)
	}
	return version, nil
}

// linkJava makes dir, whose name Trivy prescribes, lead to the given index.
func linkJava(given, dir string) (string, error) {
	given, err := filepath.Abs(given)
	if err != nil {
		return "", fmt.Errorf("java index: %w", err)
	}
	if _, err := os.Stat(filepath.Join(given, "trivy-java.db")); err != nil {
		return "", fmt.Errorf("java index: %w", err)
	}
	metadata := javadbschema.NewMetadata(given)
	m, err := metadata.Get()
	if err != nil {
		return "", fmt.Errorf("java index: %w", err)
	}
	if m.Version != javadbschema.SchemaVersion {
		return "", fmt.Errorf("java index: schema %d, want %d", m.Version, javadbschema.SchemaVersion)
	}
	if err := os.Symlink(given, dir); err != nil {
		return "", fmt.Errorf("java index: %w", err)
	}
	return m.UpdatedAt.UTC().Format(time.RFC3339Nano), nil
}

func emptyJava(dir string) error {
	db, err := javadbschema.New(dir)
	if err != nil {
		return fmt.Errorf("empty java index: %w", err)
	}
	if err := db.Init(); err != nil {
		return fmt.Errorf("empty java index: %w", err)
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("empty java index: %w", err)
	}
	metadata := javadbschema.NewMetadata(dir)
	if err := metadata.Update(javadbschema.Metadata{Version: javadbschema.SchemaVersion}); err != nil {
		return fmt.Errorf("empty java index: %w", err)
	}
	return nil
}

// key hashes everything that makes another inventory of the same bytes. The
// readable part is Trivy's version.
func key(o Options, group, config analyzer.Versions, handlers map[string]int, javaVersion string) (string, error) {
	modules := moduleVersions()
	b, err := json.Marshal(map[string]any{ // maps are written in order of their keys
		"inventory": inventoryVersion, "modules": modules, "analyzers": group, "config": config, "handlers": handlers,
		"java": javaVersion, "misconfigurations": o.Misconfigurations, "licenses": o.Licenses,
	})
	if err != nil {
		return "", fmt.Errorf("analyzer key: %w", err)
	}
	sum := sha256.Sum256(b)
	return "trivy-" + modules[trivyModule] + "-" + hex.EncodeToString(sum[:8]), nil
}

const trivyModule = "github.com/aquasecurity/trivy"

// moduleVersions are those that decide what is found.
func moduleVersions() map[string]string {
	out := map[string]string{
		trivyModule: "", "github.com/aquasecurity/trivy-checks": "", "github.com/aquasecurity/trivy-java-db": "",
		"github.com/knqyf263/go-rpmdb": "", "modernc.org/sqlite": "",
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if _, wanted := out[m.Path]; wanted {
			out[m.Path] = m.Version
		}
	}
	return out
}
