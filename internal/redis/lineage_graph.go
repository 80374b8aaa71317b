package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
)

// Which manifests are built on which is a tree: a chain of layers is a node, named by
// a hash over them, and leads to the chains with one layer more (`nexts`) and to the
// images that are exactly it (`ends`). Nodes are in partitions by their name.

// chainHash is how many bytes tell one chain of layers from another. It is an index:
// BasesOf compares the layers themselves.
const chainHash = 8

// fieldMax is how many bytes of a list are in one field of a hash, see luaLists.
const fieldMax = 512

// chain returns the names of the chains of the lowest layer, the two lowest, and so
// on.
func chain(layers []pratique.Descriptor) []place {
	out := make([]place, 0, len(layers))
	var sum [sha256.Size]byte
	for _, l := range layers {
		sum = sha256.Sum256(append(sum[:], l.Digest...))
		out = append(out, node(string(sum[:chainHash])))
	}
	return out
}

func node(name string) place { return place{partOfHex(hex.EncodeToString([]byte(name[:1]))), name} }

// putStructure stores what BasesOf, TagsOf and Parents find manifests by. It may
// store something twice, when it was ended in the middle before or is done at two
// replicas: readers do not mind.
func (db *DB) putStructure(ctx context.Context, images ...pratique.Image) error {
	var children, tops []place
	var parents, ends []string
	var nodes []link
	for _, img := range images {
		for _, c := range img.Children {
			children, parents = append(children, placeOf(c.Digest)), append(parents, packItem(img.Digest))
		}
		if img.Kind != pratique.KindImage || len(img.Layers) == 0 {
			continue
		}
		chain := chain(img.Layers)
		for i, n := range chain {
			nodes = append(nodes, link{node: n})
			if i > 0 {
				nodes[len(nodes)-1].from = chain[i-1]
			}
		}
		tops, ends = append(tops, chain[len(chain)-1]), append(ends, packItem(img.Digest))
	}
	if err := db.appendTo(ctx, "parents", children, parents); err != nil {
		return err
	}
	if err := db.putNodes(ctx, nodes); err != nil {
		return err
	}
	return db.appendTo(ctx, "ends", tops, ends)
}

// link is a node and the one that leads to it; none to that of one layer.
type link struct{ from, node place }

// putNodes stores those nodes that are not there.
func (db *DB) putNodes(ctx context.Context, nodes []link) error {
	seen := make(map[string]bool)
	nodes = slices.DeleteFunc(nodes, func(n link) bool {
		twice := seen[n.node.field]
		seen[n.node.field] = true
		return twice
	})
	all := make([]place, len(nodes))
	for i, n := range nodes {
		all[i] = n.node
	}
	_, there, err := db.fields(ctx, "ends", all)
	if err != nil {
		return err
	}
	var missing, from []place
	var to []string
	for i, n := range nodes {
		if there[i] {
			continue
		}
		missing = append(missing, n.node)
		if n.from.field != "" {
			from, to = append(from, n.from), append(to, n.node.field)
		}
	}
	// A node that is there is led to: its field in ends comes after what leads to it.
	if err := db.appendTo(ctx, "nexts", from, to); err != nil || len(missing) == 0 {
		return err
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, n := range missing {
			pipe.HSetNX(ctx, db.key(n.part, "ends"), n.field, "\x00\x00\x00\x00")
		}
		return nil
	})
	return err
}

// appendTo adds an item to each of some lists in the hashes with a name.
func (db *DB) appendTo(ctx context.Context, name string, places []place, items []string) error {
	var calls []call
	grouped(places, func(p part, indexes []int) {
		c := call{keys: []string{db.key(p, name)}, args: []any{fieldMax}}
		for _, i := range indexes {
			c.args = append(c.args, places[i].field, items[i])
		}
		calls = append(calls, c)
	})
	if len(calls) == 0 {
		return nil
	}
	_, err := db.calls(ctx, scriptAppendLists, calls)
	return err
}

// maxTold is of how many digests a write tells; when it is more, it tells of all.
const maxTold = 4000

// concerned are digests about which a write says something else, or all.
type concerned struct {
	ds  map[digest.Digest]struct{}
	all bool
}

func (c *concerned) add(ds ...digest.Digest) {
	if c.ds == nil {
		c.ds = make(map[digest.Digest]struct{})
	}
	for _, d := range ds {
		if d != "" {
			c.ds[d] = struct{}{}
		}
	}
	c.all = c.all || len(c.ds) > maxTold
}

func (c *concerned) list() []digest.Digest {
	out := make([]digest.Digest, 0, len(c.ds))
	for d := range c.ds {
		out = append(out, d)
	}
	return out
}

// lower are the manifests in ds and those that they name as children, as deep as they
// nest, and which of them are images over layers.
func (db *DB) lower(ctx context.Context, ds []digest.Digest, c *concerned) (images []pratique.Image, err error) {
	seen := make(map[digest.Digest]bool)
	for next := ds; len(next) > 0 && !c.all; {
		var fresh []digest.Digest
		for _, d := range next {
			if d != "" && !seen[d] {
				seen[d] = true
				fresh = append(fresh, d)
			}
		}
		c.add(fresh...)
		known, err := db.images(ctx, fresh)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, img := range known {
			for _, child := range img.Children {
				next = append(next, child.Digest)
			}
			if img.Kind == pratique.KindImage && len(img.Layers) > 0 {
				images = append(images, img)
			}
		}
	}
	return images, nil
}

// upper are the manifests in ds and the indexes that list them, as deep as they nest.
// above are the direct ones of each.
func (db *DB) upper(ctx context.Context, ds []digest.Digest) (all []digest.Digest, above map[digest.Digest][]digest.Digest, err error) {
	above = make(map[digest.Digest][]digest.Digest)
	for next := ds; len(next) > 0; {
		var fresh []digest.Digest
		for _, d := range next {
			if _, seen := above[d]; !seen && d != "" {
				above[d] = nil
				fresh = append(fresh, d)
			}
		}
		if len(fresh) == 0 {
			break
		}
		all = append(all, fresh...)
		parents, err := db.parentsOf(ctx, fresh)
		if err != nil {
			return nil, nil, err
		}
		next = nil
		for i, d := range fresh {
			above[d] = parents[i]
			next = append(next, parents[i]...)
		}
	}
	return all, above, nil
}

// built adds the images that are built on images.
func (db *DB) built(ctx context.Context, images []pratique.Image, c *concerned) error {
	var next []place
	begun := make(map[string]bool)
	for _, img := range images {
		if chain := chain(img.Layers); len(chain) > 0 && !begun[chain[len(chain)-1].field] {
			begun[chain[len(chain)-1].field] = true
			next = append(next, chain[len(chain)-1])
		}
	}
	seen := make(map[string]bool) // one may be built on another
	for len(next) > 0 && !c.all {
		lists, err := db.lists(ctx, "nexts", next)
		if err != nil {
			return err
		}
		next = nil
		for _, list := range lists {
			for ; len(list) >= chainHash; list = list[chainHash:] {
				if name := list[:chainHash]; !seen[name] {
					seen[name] = true
					next = append(next, node(name))
				}
			}
		}
		ends, err := db.lists(ctx, "ends", next)
		if err != nil {
			return err
		}
		for _, list := range ends {
			ds, err := unpackItems(list)
			if err != nil {
				return err
			}
			c.add(ds...)
		}
		c.all = c.all || len(seen) > maxTold
	}
	return nil
}

// tagConcerns are the digests about which Lineage says something else when a tag that
// named some moves: those, their children, and what is built on them.
func (db *DB) tagConcerns(ctx context.Context, named []digest.Digest) (*concerned, error) {
	c := new(concerned)
	images, err := db.lower(ctx, named, c)
	if err == nil {
		err = db.built(ctx, images, c)
	}
	return c, err
}

// linkConcerns are those about which Lineage may say something else when the manifest
// becomes known: its children, which tags of it name as well, and what is built on it
// or on them. The latter only if a tag names it, or an index that names it. It is
// asked when the manifest's document and structure are there, and SetTag asks when
// its spans are: of a link and a tag at the same time, one sees the other.
func (db *DB) linkConcerns(ctx context.Context, img pratique.Image) (*concerned, error) {
	c := new(concerned)
	images, err := db.lower(ctx, []digest.Digest{img.Digest}, c)
	if err != nil || len(images) == 0 {
		return c, err
	}
	upper, _, err := db.upper(ctx, []digest.Digest{img.Digest})
	if err != nil {
		return nil, err
	}
	_, tagged, err := db.fields(ctx, "trails", placesOf(upper))
	if err != nil {
		return nil, err
	}
	for _, there := range tagged {
		if there {
			return c, db.built(ctx, images, c)
		}
	}
	return c, nil
}
