package match

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	ospkgdetect "github.com/aquasecurity/trivy/pkg/detector/ospkg"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/driver"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/rootio"
	"github.com/aquasecurity/trivy/pkg/detector/ospkg/seal"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"

	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"

	"pratique"
)

// batchSize is how many components of one group go through Trivy in one call:
// large enough to make its per-call cost vanish, small enough to spread an
// image over the cores.
const batchSize = 64

// Suppliers whose driver Trivy selects by looking at the whole image; the
// context says which, so that a component's result depends on itself alone.
const (
	supplierRapidFort = string(ftypes.SupplierRapidFort)
	supplierSeal      = string(ftypes.SupplierSeal)
	supplierRootIO    = "root.io"
)

// scanOptions are the options under which Trivy reports everything. The zero
// value of any of these fields gives a clean report.
func scanOptions() types.ScanOptions {
	return types.ScanOptions{
		PkgTypes:            types.PkgTypes,
		PkgRelationships:    ftypes.Relationships,
		Scanners:            types.Scanners{types.VulnerabilityScanner},
		VulnSeveritySources: []dbtypes.SourceID{"auto"},
	}
}

// group is what components matched in one call of Trivy have in common.
type group struct {
	class         pratique.Class
	kind          string // OS family or language type
	name          string // OS release
	extended      bool
	supplier      string
	hasRepository bool
	repository    pratique.Repository
}

// groupOf also fails for a context that no Matcher understands: to guess would
// be to miss findings.
func groupOf(c pratique.Component, p ftypes.Package) (group, error) {
	g := group{class: c.Context.Class, kind: c.Context.Type}
	switch c.Context.Class {
	case pratique.ClassLanguage:
		return g, nil
	case pratique.ClassOS:
	default:
		return group{}, fmt.Errorf("%w component %s: class %q", pratique.ErrInvalid, c.Name, c.Context.Class)
	}
	g.name, g.extended, g.supplier = c.Context.Name, c.Context.Extended, c.Context.Supplier
	if r := c.Context.Repository; r != nil {
		g.hasRepository, g.repository = true, *r
	}
	// A context that names no supplier for a package that by itself selects one
	// would make the answer depend on what else is in the batch.
	if g.supplier == "" {
		os, ps := ftypes.OS{Family: ftypes.OSType(g.kind)}, []ftypes.Package{p}
		switch {
		case rootio.Supplier(os, ps) != nil:
			g.supplier = supplierRootIO
		case seal.Supplier(os, ps) != nil:
			g.supplier = supplierSeal
		}
	}
	return g, nil
}

// batch is the unit of work: components of one group, by their place in the
// caller's slice.
type batch struct {
	group   group
	indexes []int
	pkgs    []ftypes.Package
}

func batches(cs []pratique.Component) ([]*batch, error) {
	open := make(map[group]*batch)
	var out []*batch
	for i, c := range cs {
		p := toPackage(c)
		// Trivy copies a package's identifier into every finding it makes of it.
		p.Identifier.UID = strconv.Itoa(i)
		g, err := groupOf(c, p)
		if err != nil {
			return nil, err
		}
		b := open[g]
		if b == nil || len(b.indexes) == batchSize {
			b = &batch{group: g}
			open[g] = b
			out = append(out, b)
		}
		b.indexes = append(b.indexes, i)
		b.pkgs = append(b.pkgs, p)
	}
	return out, nil
}

// detect needs shared.lock for reading until it returns; it returns only when
// none of its goroutines reads the database any more.
func (m *Matcher) detect(ctx context.Context, cs []pratique.Component) ([][]pratique.Vulnerability, error) {
	bs, err := batches(cs)
	if err != nil {
		return nil, err
	}
	out := make([][]pratique.Vulnerability, len(cs))
	work := make(chan *batch)
	failed := make(chan struct{})
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	fail := func(err error) { once.Do(func() { first = err; close(failed) }) }
	for range min(cap(m.slots), len(bs)) {
		wg.Go(func() {
			records := newRecords()
			for b := range work {
				m.slots <- struct{}{}
				err := b.run(ctx, cs, records, out)
				<-m.slots
				if err != nil {
					fail(err)
				}
			}
		})
	}
feed:
	for _, b := range bs {
		if err := ctx.Err(); err != nil { // select would choose at random
			fail(err)
			break
		}
		select {
		case work <- b:
		case <-failed:
			break feed
		case <-ctx.Done():
			fail(ctx.Err())
			break feed
		}
	}
	close(work)
	wg.Wait()
	if first != nil {
		return nil, first
	}
	return out, nil
}

// run matches one batch and writes each component's findings to its own place.
func (b *batch) run(ctx context.Context, cs []pratique.Component, records *records, out [][]pratique.Vulnerability) (err error) {
	defer catch(&err)()
	var found []types.DetectedVulnerability
	switch b.group.class {
	case pratique.ClassOS:
		found, _, err = b.group.scanOS(ctx, b.pkgs)
	case pratique.ClassLanguage:
		found, err = b.group.scanLanguage(ctx, b.pkgs)
	}
	if err != nil {
		return err
	}
	vulnerability.NewClient(records).FillInfo(found, scanOptions().VulnSeveritySources)
	if err := records.err(); err != nil {
		return err
	}
	for _, v := range found {
		i, err := strconv.Atoi(v.PkgIdentifier.UID)
		_, ours := slices.BinarySearch(b.indexes, i)
		if err != nil || !ours || cs[i].Name != v.PkgName {
			return fmt.Errorf("%s of package %q belongs to none of the components", v.VulnerabilityID, v.PkgName)
		}
		out[i] = append(out[i], toVulnerability(v))
	}
	for _, i := range b.indexes {
		out[i] = unique(out[i])
	}
	return nil
}

// scanOS runs Trivy's scanner for OS packages, the one the trivy program runs.
func (g group) scanOS(ctx context.Context, pkgs []ftypes.Package) ([]types.DetectedVulnerability, bool, error) {
	target := types.ScanTarget{
		OS: ftypes.OS{
			Family: ftypes.OSType(g.kind), Name: g.name, Extended: g.extended,
		},
		Packages: pkgs,
	}
	if g.hasRepository {
		target.Repository = &ftypes.Repository{Family: ftypes.OSType(g.repository.Family), Release: g.repository.Release}
	}
	var opts []ospkgdetect.Option
	switch g.supplier {
	case "":
	case supplierRapidFort:
		target.OS.Supplier = ftypes.SupplierRapidFort
	case supplierRootIO:
		opts = append(opts, force(rootio.NewScanner(target.OS.Family)))
	case supplierSeal:
		opts = append(opts, force(seal.NewScanner(target.OS.Family)))
	default:
		return nil, false, fmt.Errorf("%w supplier %q of packages", pratique.ErrInvalid, g.supplier)
	}
	result, eol, err := ospkg.NewScanner(opts...).Scan(ctx, target, scanOptions())
	if errors.Is(err, ospkgdetect.ErrUnsupportedOS) {
		return nil, false, nil // Trivy has no advisories for this family, as for "none"
	}
	return result.Vulnerabilities, eol, err
}

func force(d driver.Driver) ospkgdetect.Option {
	return ospkgdetect.WithSupplier(func(ftypes.OS, []ftypes.Package) driver.Driver { return d })
}

// scanLanguage runs Trivy's scanner for language packages. A type that it has
// no advisories for yields nothing, as in the trivy program.
func (g group) scanLanguage(ctx context.Context, pkgs []ftypes.Package) ([]types.DetectedVulnerability, error) {
	target := types.ScanTarget{Applications: []ftypes.Application{{Type: ftypes.LangType(g.kind), Packages: pkgs}}}
	results, err := langpkg.NewScanner().Scan(ctx, target, scanOptions())
	if err != nil {
		return nil, err
	}
	var found []types.DetectedVulnerability
	for _, r := range results {
		found = append(found, r.Vulnerabilities...)
	}
	return found, nil
}
