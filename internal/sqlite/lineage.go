package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// chainHash is how many bytes tell one chain of layers from another. It is an
// index: BasesOf compares the layers themselves.
const chainHash = 8

// chain returns the hashes over the lowest layer, the two lowest, and so on.
func chain(layers []pratique.Descriptor) []byte {
	out := make([]byte, 0, chainHash*len(layers))
	var sum [sha256.Size]byte
	for _, l := range layers {
		sum = sha256.Sum256(append(sum[:], l.Digest...))
		out = append(out, sum[:chainHash]...)
	}
	return out
}

// putStructure stores what BasesOf and TagsOf find a manifest by.
func putStructure(ctx context.Context, tx *sql.Tx, image int64, img pratique.Image) error {
	for _, c := range img.Children {
		if _, err := tx.ExecContext(ctx, `INSERT INTO children (parent, child) VALUES (?, ?) ON CONFLICT DO NOTHING`, image, c.Digest.String()); err != nil {
			return err
		}
	}
	if img.Kind != pratique.KindImage || len(img.Layers) == 0 {
		return nil
	}
	hashes := chain(img.Layers)
	_, err := tx.ExecContext(ctx, `INSERT INTO chains (image, layers, bottom, top, hashes) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		image, len(img.Layers), hashes[:chainHash], hashes[len(hashes)-chainHash:], hashes)
	return err
}

// SQLite has no statistics here, and guesses the order of joins: CROSS JOIN is the
// order as written, each step by an index.
//
// Parts of queries: lower are the manifests in named, and those that they name as
// children; built are those that are built on them.
const (
	lowered = `lower(digest) AS (SELECT digest FROM named UNION
		SELECT c.child FROM lower CROSS JOIN images p ON p.digest = lower.digest CROSS JOIN children c ON c.parent = p.id)`
	built = `SELECT i.digest FROM lower CROSS JOIN images b ON b.digest = lower.digest CROSS JOIN chains bc ON bc.image = b.id
		CROSS JOIN chains c ON c.bottom = bc.bottom AND c.layers > bc.layers AND substr(c.hashes, 1 + 8 * (bc.layers - 1), 8) = bc.top
		CROSS JOIN images i ON i.id = c.image`
)

// tagConcerns are the digests about which Lineage says something else when the
// tag moves: what it names and named, and what is built on that.
func tagConcerns(ctx context.Context, tx *sql.Tx, repo int64, tag string) ([]digest.Digest, error) {
	return digests(ctx, tx, `WITH RECURSIVE named(digest) AS (SELECT digest FROM tag_spans WHERE repository = ? AND tag = ?), `+lowered+`
		SELECT digest FROM lower UNION `+built, repo, tag)
}

// linkConcerns are those about which Lineage may say something else when the
// manifest becomes known: its children, which tags of it name as well, and what
// is built on it or on them. The latter only if a tag names it, or an index that
// names it.
func linkConcerns(ctx context.Context, tx *sql.Tx, img pratique.Image) ([]digest.Digest, error) {
	return digests(ctx, tx, `WITH RECURSIVE named(digest) AS (VALUES (?)), `+lowered+`,
		upper(digest) AS (SELECT digest FROM named UNION
			SELECT p.digest FROM upper CROSS JOIN children c ON c.child = upper.digest CROSS JOIN images p ON p.id = c.parent)
		SELECT digest FROM lower UNION `+built+` WHERE EXISTS (SELECT 1 FROM upper CROSS JOIN tag_spans s ON s.digest = upper.digest)`, img.Digest.String())
}

func digests(ctx context.Context, tx *sql.Tx, query string, args ...any) ([]digest.Digest, error) {
	rs, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var out []digest.Digest
	for rs.Next() {
		var d digest.Digest
		if err := rs.Scan(&d); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rs.Err()
}

// TagsOf implements store.Lineage. The spans of one tag that led to the digest,
// itself or through several indexes, become one.
func (db *DB) TagsOf(ctx context.Context, ref pratique.Ref) ([]store.TagSpan, error) {
	var out []store.TagSpan
	err := db.rows(ctx, `WITH RECURSIVE upper(digest) AS (VALUES (?3) UNION
			SELECT p.digest FROM upper CROSS JOIN children c ON c.child = upper.digest CROSS JOIN images p ON p.id = c.parent)
		SELECT s.tag, s.digest, s.first_at, s.last_at, s.left_at, t.digest, t.checked_at
		FROM repositories r CROSS JOIN upper CROSS JOIN tag_spans s ON s.digest = upper.digest AND s.repository = r.id
		CROSS JOIN tags t ON t.repository = s.repository AND t.tag = s.tag
		WHERE r.registry = ?1 AND r.name = ?2 ORDER BY s.tag`,
		[]any{ref.Registry, ref.Repo, ref.Digest.String()}, func(scan func(...any) error) error {
			var tag, named, now string
			var first, last, left, checked int64
			if err := scan(&tag, &named, &first, &last, &left, &now, &checked); err != nil {
				return err
			}
			s := store.TagSpan{Tag: tag, Digest: ref.Digest, FirstAt: at(first), LastAt: at(last), Now: digest.Digest(now), MovedAt: at(left)}
			if named == now {
				s.Now, s.LastAt, s.MovedAt = ref.Digest, at(checked), time.Time{}
			}
			if n := len(out) - 1; n >= 0 && out[n].Tag == tag {
				out[n] = joined(out[n], s)
			} else {
				out = append(out, s)
			}
			return nil
		})
	if err != nil {
		return nil, annotate(err, "tags of %s", ref)
	}
	return out, nil
}

// joined is two spans of one tag and one digest as one: it is named as long as
// either is, and left when the later was.
func joined(a, b store.TagSpan) store.TagSpan {
	first := a.FirstAt
	if b.FirstAt.Before(first) {
		first = b.FirstAt
	}
	// What names it now wins, else what did last.
	if current := b.Now == b.Digest; current || a.Now != a.Digest && b.MovedAt.After(a.MovedAt) {
		a = b
	}
	a.FirstAt = first
	return a
}

// TagHistory implements store.Lineage.
func (db *DB) TagHistory(ctx context.Context, ref pratique.Ref) ([]store.TagSpan, error) {
	var out []store.TagSpan
	err := db.rows(ctx, `SELECT s.digest, s.first_at, s.last_at, s.left_at, t.digest, t.checked_at
		FROM repositories r CROSS JOIN tag_spans s ON s.repository = r.id CROSS JOIN tags t ON t.repository = r.id AND t.tag = s.tag
		WHERE r.registry = ? AND r.name = ? AND s.tag = ? ORDER BY s.first_at, s.id`,
		[]any{ref.Registry, ref.Repo, ref.Tag}, func(scan func(...any) error) error {
			var first, last, left, checked int64
			s := store.TagSpan{Tag: ref.Tag}
			if err := scan(&s.Digest, &first, &last, &left, &s.Now, &checked); err != nil {
				return err
			}
			s.FirstAt, s.LastAt, s.MovedAt = at(first), at(last), at(left)
			if s.Now == s.Digest {
				s.LastAt, s.MovedAt = at(checked), time.Time{}
			}
			out = append(out, s)
			return nil
		})
	if err != nil {
		return nil, annotate(err, "history of %s:%s", ref.Repository(), ref.Tag)
	}
	return out, nil
}

// TagsSeen implements store.Lineage.
func (db *DB) TagsSeen(ctx context.Context, ref pratique.Ref) (map[string]time.Time, error) {
	out := make(map[string]time.Time)
	err := db.rows(ctx, `SELECT s.tag, s.first_at FROM repositories r JOIN tags_seen s ON s.repository = r.id WHERE r.registry = ? AND r.name = ?`,
		[]any{ref.Registry, ref.Repo}, func(scan func(...any) error) error {
			var tag string
			var first int64
			err := scan(&tag, &first)
			out[tag] = at(first)
			return err
		})
	if err != nil {
		return nil, annotate(err, "tags seen of %s", ref.Repository())
	}
	return out, nil
}

// seeTags notes tags of a list.
func seeTags(ctx context.Context, tx *sql.Tx, repo int64, tags []string, at int64) error {
	if len(tags) == 0 {
		return nil
	}
	list, err := json.Marshal(tags)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO tags_seen (repository, tag, first_at) SELECT ?, value, ? FROM json_each(?) WHERE true
		ON CONFLICT DO UPDATE SET first_at = min(first_at, excluded.first_at)`, repo, at, string(list))
	return err
}

// BasesOf implements store.Lineage.
func (db *DB) BasesOf(ctx context.Context, img pratique.Image) ([]store.Known, error) {
	if len(img.Layers) < 2 {
		return nil, nil
	}
	hashes := chain(img.Layers[:len(img.Layers)-1])
	var prefixes []string
	for h := range slices.Chunk(hashes, chainHash) {
		prefixes = append(prefixes, hex.EncodeToString(h))
	}
	asked, err := json.Marshal(prefixes)
	if err != nil {
		return nil, annotate(err, "bases of %s", img.Digest)
	}
	type span struct {
		image int64
		ref   pratique.Ref
	}
	var spans []span
	seen := make(map[span]bool) // image and repository
	err = db.rows(ctx, basesOf, []any{string(asked)}, func(scan func(...any) error) error {
		var s span
		if err := scan(&s.image, &s.ref.Registry, &s.ref.Repo, &s.ref.Tag); err != nil {
			return err
		}
		place := s
		if place.ref.Tag = ""; !seen[place] {
			seen[place] = true
			spans = append(spans, s)
		}
		return nil
	})
	if err != nil {
		return nil, annotate(err, "bases of %s", img.Digest)
	}
	var out []store.Known
	known := make(map[int64]pratique.Image)
	for _, s := range spans[:min(len(spans), maxBases)] {
		base, read := known[s.image]
		if !read {
			var seen int64
			var doc []byte
			err := db.row(ctx, `SELECT first_seen, doc FROM images WHERE id = ?`, []any{s.image}, &seen, &doc)
			if err == nil {
				err = db.decode(doc, &base)
			}
			if err != nil {
				return nil, annotate(err, "bases of %s", img.Digest)
			}
			base.FirstSeen = at(seen)
			known[s.image] = base
		}
		if lowerLayers(base, img) {
			s.ref.Digest = base.Digest
			out = append(out, store.Known{Ref: s.ref, Image: base})
		}
	}
	return out, nil
}

// maxBases is how many references BasesOf gives.
const maxBases = 100

// basesOf selects images by the chains in a JSON array, those of most layers
// first, with the tags that name or named them: of one repository rather a tag
// that moved on to something else, the last of those, than one that still names
// the image, and rather that than one that is gone.
const basesOf = `WITH RECURSIVE
	base(image, digest, layers, first_seen) AS (SELECT i.id, i.digest, c.layers, i.first_seen
		FROM json_each(?) j CROSS JOIN chains c ON c.top = unhex(j.value) CROSS JOIN images i ON i.id = c.image),
	upper(image, digest) AS (SELECT image, digest FROM base UNION
		SELECT upper.image, p.digest FROM upper CROSS JOIN children h ON h.child = upper.digest CROSS JOIN images p ON p.id = h.parent)
	SELECT upper.image, r.registry, r.name, s.tag
	FROM upper CROSS JOIN tag_spans s ON s.digest = upper.digest CROSS JOIN tags t ON t.repository = s.repository AND t.tag = s.tag
	CROSS JOIN repositories r ON r.id = s.repository CROSS JOIN base ON base.image = upper.image
	ORDER BY base.layers DESC, base.first_seen, base.digest, t.digest = '', t.digest = s.digest, s.left_at DESC, s.id LIMIT 10000`

// lowerLayers reports whether the layers of base are the lower ones of img, but
// fewer.
func lowerLayers(base, img pratique.Image) bool {
	if len(base.Layers) == 0 || len(base.Layers) >= len(img.Layers) {
		return false
	}
	for i, l := range base.Layers {
		if l.Digest != img.Layers[i].Digest {
			return false
		}
	}
	return true
}
