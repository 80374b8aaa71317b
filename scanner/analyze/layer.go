//go:build goexperiment.jsonv2

package analyze

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/semaphore"

	"pratique"
)

// Layer reads one layer to its end. What the layer causes is in the
// inventory's problems; the error is r's.
func (a *Analyzer) Layer(ctx context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log.take()

	content := newContent(d, r, a.limit)
	blob, found, err := a.inspect(ctx, content)
	content.drain()
	if content.source.err != nil {
		return pratique.Inventory{}, fmt.Errorf("reading layer %s: %w", d.Digest, content.source.err)
	}
	problems := content.problems()
	switch {
	case len(problems) > 0: // a broken stream is why it cannot be read as an archive: say it once
	case err != nil:
		problems = append(problems, pratique.Problem{Source: "layer", Message: printable(err.Error()), Fatal: true})
	case content.uncompressed%512 != 0:
		problems = append(problems, pratique.Problem{Source: "layer", Message: "the archive is cut off", Fatal: true})
	case content.stray:
		problems = append(problems, pratique.Problem{Source: "layer", Message: "data follows the end of the archive: it is not read"})
	}
	problems = append(problems, found.problems...)
	problems = append(problems, a.log.take()...)
	for i := range problems {
		problems[i].Layer = d.Digest
	}
	inv := inventory(blob)
	inv.Layer, inv.DiffID, inv.Size, inv.Analyzer = d.Digest, content.diffID(), content.uncompressed, a.key
	if inv.OS.Family == "" {
		inv.OSRelease = found.osRelease
	}
	inv.Problems = problems
	return inv, nil
}

// inspect is trivy's artifact/image.inspectLayer on a stream.
func (a *Analyzer) inspect(ctx context.Context, r io.Reader) (_ ftypes.BlobInfo, found *findings, err error) {
	found = &findings{paths: newPathCheck()}
	defer func() { found.problems = append(found.problems, found.paths.problems...) }()

	eg, egCtx := errgroup.WithContext(ctx)
	opts := analyzer.AnalysisOptions{Offline: true}
	result := analyzer.NewAnalysisResult()
	limit := semaphore.New(parallel)
	composite, err := a.group.PostAnalyzerFS()
	if err != nil {
		return ftypes.BlobInfo{}, found, fmt.Errorf("post analysis: %w", err)
	}
	defer func() { _ = composite.Cleanup() }() // the parent removes what is left

	opaque, whiteouts, walkErr := walk(r, found.paths.entry, func(path string, info os.FileInfo, open analyzer.Opener) error {
		if err := a.group.AnalyzeFile(egCtx, eg, limit, result, "", path, info, open, nil, opts); err != nil {
			return err
		}
		if err := found.look(path, open); err != nil {
			return err
		}
		types := a.group.RequiredPostAnalyzers(path, info)
		if len(types) == 0 {
			return nil
		}
		tmp, err := composite.CopyFileToTemp(open, info)
		if err != nil {
			return fmt.Errorf("copying %q for post analysis: %w", path, err)
		}
		return composite.CreateLink(types, "", path, tmp)
	})
	if err := eg.Wait(); err != nil {
		return ftypes.BlobInfo{}, found, fmt.Errorf("analysis: %w", err)
	}
	if walkErr != nil {
		return ftypes.BlobInfo{}, found, fmt.Errorf("reading the archive: %w", walkErr)
	}
	if err := a.group.PostAnalyze(ctx, composite, result, opts); err != nil {
		return ftypes.BlobInfo{}, found, fmt.Errorf("post analysis: %w", err)
	}
	result.Sort()
	blob := ftypes.BlobInfo{
		SchemaVersion:     ftypes.BlobJSONSchemaVersion,
		OpaqueDirs:        opaque,
		WhiteoutFiles:     whiteouts,
		OS:                result.OS,
		Repository:        result.Repository,
		PackageInfos:      result.PackageInfos,
		Applications:      result.Applications,
		Misconfigurations: result.Misconfigurations,
		Secrets:           result.Secrets,
		Licenses:          result.Licenses,
		BuildInfo:         result.BuildInfo,
	}
	if err := a.handlers.PostHandle(ctx, result, &blob); err != nil {
		return ftypes.BlobInfo{}, found, fmt.Errorf("post handlers: %w", err)
	}
	return blob, found, nil
}

// findings is what this package sees beside Trivy.
type findings struct {
	paths     *pathCheck
	osRelease string
	problems  []pratique.Problem
}

// look reads those package databases whose analyzers stop in silence at a line
// longer than a bufio.Scanner takes.
func (f *findings) look(path string, open analyzer.Opener) error {
	kind, ok := databaseAt(path)
	if !ok || kind == "rpm" || kind == "dpkg" { // those fail aloud
		return nil
	}
	rc, err := open()
	if err != nil {
		return fmt.Errorf("opening %q: %w", path, err)
	}
	defer func() { _ = rc.Close() }()
	lines := bufio.NewScanner(rc)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if strings.HasSuffix(path, "/os-release") && strings.TrimSpace(key) == "ID" {
			f.osRelease = printable(strings.Trim(strings.TrimSpace(value), `"'`))
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		f.problems = append(f.problems, pratique.Problem{Path: path, Source: kind, Message: "a line is too long: what follows it is not read"})
		return nil
	}
	return lines.Err()
}
