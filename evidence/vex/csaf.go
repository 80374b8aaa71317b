package vex

import (
	"cmp"
	"encoding/json"
	"iter"
	"slices"
	"time"

	"pratique"
)

// csaf is the part of a CSAF document that says which product is affected.
// Source: OASIS CSAF 2.0, sections 3.2.2 (product tree) and 3.2.3
// (vulnerabilities). The rest is not looked at: a document with a mistake in its
// publisher's address speaks all the same.
type csaf struct {
	Document struct {
		Tracking struct {
			ID      string    `json:"id"`
			Current time.Time `json:"current_release_date"`
		} `json:"tracking"`
	} `json:"document"`
	Tree struct {
		Branches      []csafBranch       `json:"branches"`
		Products      []csafProduct      `json:"full_product_names"`
		Groups        []csafGroup        `json:"product_groups"`
		Relationships []csafRelationship `json:"relationships"`
	} `json:"product_tree"`
	Vulnerabilities []csafVulnerability `json:"vulnerabilities"`
}

type csafBranch struct {
	Category string       `json:"category"`
	Name     string       `json:"name"`
	Branches []csafBranch `json:"branches"`
	Product  *csafProduct `json:"product"`
}

type csafProduct struct {
	ID     string `json:"product_id"`
	Helper *struct {
		PURL string `json:"purl"`
	} `json:"product_identification_helper"`
}

type csafGroup struct {
	ID       string   `json:"group_id"`
	Products []string `json:"product_ids"`
}

type csafRelationship struct {
	Category  string      `json:"category"`
	Product   csafProduct `json:"full_product_name"`
	Component string      `json:"product_reference"`
	Of        string      `json:"relates_to_product_reference"`
}

type csafVulnerability struct {
	CVE string `json:"cve"`
	IDs []struct {
		Text string `json:"text"`
	} `json:"ids"`
	Status struct {
		NotAffected        []string `json:"known_not_affected"`
		Fixed              []string `json:"fixed"`
		FirstFixed         []string `json:"first_fixed"`
		KnownAffected      []string `json:"known_affected"`
		FirstAffected      []string `json:"first_affected"`
		LastAffected       []string `json:"last_affected"`
		UnderInvestigation []string `json:"under_investigation"`
	} `json:"product_status"`
	Flags []struct {
		Label string `json:"label"`
		csafScope
	} `json:"flags"`
	Threats []struct {
		Category string `json:"category"`
		Details  string `json:"details"`
		csafScope
	} `json:"threats"`
}

// csafScope says which products a flag or threat is about.
type csafScope struct {
	Products []string `json:"product_ids"`
	Groups   []string `json:"group_ids"`
}

func decodeCSAF(raw []byte) (*csaf, error) {
	doc := new(csaf)
	if err := json.Unmarshal(raw, doc); err != nil {
		return nil, invalid("CSAF: %w", err)
	}
	return doc, nil
}

// statements are those of the document. Products without a purl (vendors name
// many by CPE alone) cannot be told and are left out.
func (d *csaf) statements() ([]pratique.Statement, error) {
	c := collector{document: d.Document.Tracking.ID, at: d.Document.Tracking.Current}
	tree, err := d.tree()
	if err != nil {
		return nil, err
	}
	for i := range d.Vulnerabilities {
		v := &d.Vulnerabilities[i]
		names := []string{v.CVE}
		for _, id := range v.IDs {
			names = append(names, id.Text)
		}
		if len(ids(names...)) == 0 {
			return nil, invalid("vulnerabilities[%d]: it has neither cve nor ids", i)
		}
		affected := slices.Concat(v.Status.KnownAffected, v.Status.FirstAffected, v.Status.LastAffected)
		// A product under two statuses is a contradiction (6.1.6): the worse holds.
		worse := make(map[string]bool)
		for _, s := range []struct {
			status   string
			products []string
		}{
			{statusAffected, affected},
			{statusUnderInvestigation, v.Status.UnderInvestigation},
			{statusFixed, slices.Concat(v.Status.Fixed, v.Status.FirstFixed)},
			{statusNotAffected, v.Status.NotAffected},
		} {
			base := pratique.Statement{IDs: names, Status: s.status}
			if err := d.split(&c, tree, v, base, s.products, worse); err != nil {
				return nil, err
			}
			for _, id := range s.products {
				worse[id] = true
			}
		}
	}
	return c.out, nil
}

// split adds a statement for each justification among the products.
func (d *csaf) split(c *collector, tree *csafTree, v *csafVulnerability, base pratique.Statement, products []string, skip map[string]bool) error {
	said, all, err := d.said(tree, v)
	if err != nil {
		return err
	}
	var order []csafWhy
	by := make(map[csafWhy][]pratique.Product)
	named := make(map[string]bool)
	for _, id := range products {
		ps := tree.resolved[id]
		if len(ps) == 0 || skip[id] || named[id] {
			continue
		}
		named[id] = true
		w := said[id]
		w.impact = cmp.Or(w.impact, all)
		if _, ok := by[w]; !ok {
			order = append(order, w)
		}
		by[w] = append(by[w], ps...)
	}
	for _, w := range order {
		s := base
		s.Justification, s.Impact, s.Products = w.justification, w.impact, by[w]
		if err := c.add(s); err != nil {
			return err
		}
	}
	return nil
}

// csafWhy is what is said for a product not being affected.
type csafWhy struct{ justification, impact string }

// said tells why by product, and the impact of those that are not named.
func (d *csaf) said(tree *csafTree, v *csafVulnerability) (said map[string]csafWhy, all string, err error) {
	said = make(map[string]csafWhy)
	for _, f := range v.Flags {
		for id := range tree.scope(f.csafScope) {
			said[id] = csafWhy{f.Label, said[id].impact}
		}
	}
	for _, t := range v.Threats {
		switch {
		case t.Category != "impact":
		case len(t.Products) == 0 && len(t.Groups) == 0:
			all = t.Details // it names none: it is about all
		default:
			for id := range tree.scope(t.csafScope) {
				said[id] = csafWhy{said[id].justification, t.Details}
			}
		}
	}
	if tree.work > maxWork {
		return nil, "", invalid("its flags and threats name more than %d products", maxWork)
	}
	return said, all, nil
}

// maxWork bounds what flags, threats and groups make of each other.
const maxWork = 5_000_000

// scope yields the products that a flag or threat is about.
func (t *csafTree) scope(s csafScope) iter.Seq[string] {
	return func(yield func(string) bool) {
		lists := [][]string{s.Products}
		for _, g := range s.Groups {
			lists = append(lists, t.groups[g])
		}
		for _, l := range lists {
			for _, id := range l {
				if t.work++; t.work > maxWork || !yield(id) {
					return
				}
			}
		}
	}
}

// csafTree tells what product ids stand for.
type csafTree struct {
	purls    map[string][]string // of products by themselves
	resolved map[string][]pratique.Product
	groups   map[string][]string
	named    int
	work     int
}

func (d *csaf) tree() (*csafTree, error) {
	t := &csafTree{purls: make(map[string][]string), resolved: make(map[string][]pratique.Product), groups: make(map[string][]string)}
	for _, g := range d.Tree.Groups {
		t.groups[g.ID] = g.Products
	}
	for _, b := range d.Tree.Branches {
		t.branch(b, "", false)
	}
	for _, p := range d.Tree.Products {
		t.product(&p, "")
	}
	parts := make(map[string][]pratique.Product)
	for _, r := range d.Tree.Relationships {
		switch r.Category {
		case "default_component_of", "installed_on", "installed_with":
		default:
			continue // optional and external components may not be there
		}
		components := t.purls[r.Component]
		if len(components) == 0 {
			continue // without them it would be the whole product
		}
		for _, of := range t.purls[r.Of] {
			if t.named += 1 + len(components); t.named > maxProducts {
				return nil, invalid("its product tree relates more than %d products", maxProducts)
			}
			parts[r.Product.ID] = append(parts[r.Product.ID], pratique.Product{ID: of, Components: components})
		}
	}
	for _, r := range d.Tree.Relationships {
		if len(parts[r.Product.ID]) == 0 {
			t.product(&r.Product, "") // by its own purl, if it has one
		}
	}
	for id, purls := range t.purls {
		for _, purl := range purls {
			t.resolved[id] = append(t.resolved[id], pratique.Product{ID: purl})
		}
	}
	for id, ps := range parts {
		t.resolved[id] = ps
	}
	return t, nil
}

// branch collects the products below b. version is the name of the nearest
// product_version above, ranged is set below a product_version_range.
func (t *csafTree) branch(b csafBranch, version string, ranged bool) {
	switch b.Category {
	case "product_version":
		version, ranged = b.Name, false
	case "product_version_range":
		version, ranged = "", true
	}
	if p := b.Product; p != nil {
		// A range whose purl has no version says of some versions what would be
		// taken for all.
		if !ranged || (p.Helper != nil && purlVersion(p.Helper.PURL) != "") {
			t.product(p, version)
		}
	}
	for _, below := range b.Branches {
		t.branch(below, version, ranged)
	}
}

func (t *csafTree) product(p *csafProduct, version string) {
	if p.Helper == nil {
		return
	}
	// A product has one helper; what goes by more names than this is no product.
	if purl := versioned(p.Helper.PURL, version); purl != "" && len(t.purls[p.ID]) < 100 && !slices.Contains(t.purls[p.ID], purl) {
		t.purls[p.ID] = append(t.purls[p.ID], purl)
	}
}
