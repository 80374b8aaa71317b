package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// What names a blob is in three places, each in a partition of its own: the hash
// `named` in the blob's, the manifest's document in the manifest's, and the link in
// the repository's. Link writes them in this order:
//
//  1. named: a claim, REPOSITORY and manifest, that ends after claimLife.
//  2. the document.
//  3. the link. With it the repository's blobs are servable, all at once. The script
//     refuses when the claim is older than linkLife.
//  4. named: 1, for ever.
//
// After a crash before 3 there is a claim that came to nothing: it ends. After a crash
// between 3 and 4 the claim leads to the link, and Unlinked completes it. So nothing
// that is linked looks unlinked, and what is not linked does not look linked for long.
const (
	// claimLife is how long a claim counts without its link.
	claimLife = 10 * time.Minute
	// linkLife is until when a link may follow its claim. What is between the two
	// allows for clocks that differ: those of replicas, which judge claims, and those
	// of Redis, which judge links.
	linkLife = 5 * time.Minute
)

// Discard holds a lock, the key `discard:BLOB` in the blob's partition: claims wait
// until it is gone. It is kept alive as long as remove runs, and ends discardLife
// after its replica died, or was stopped or parted from Redis for so long. In the
// latter case a Link may return before remove has ended: then the blob is linked and
// gone, and fetched again when somebody asks for it, as one that was removed to make
// room.
const (
	discardLife = 15 * time.Second
	// discardPoll is how often those look that wait for a lock.
	discardPoll = 20 * time.Millisecond
)

var _ store.Links = (*DB)(nil)

// claim is a link that may come.
func claim(until time.Time, repository string, manifest digest.Digest) string {
	return strconv.FormatInt(until.UnixMilli(), 10) + " " + repository + " " + manifest.String()
}

// name registers claims on blobs, waiting for those that are being removed.
func (db *DB) name(ctx context.Context, ds []digest.Digest, claim string) error {
	for {
		busy, err := db.tryName(ctx, ds, claim)
		if err != nil || len(busy) == 0 {
			return err
		}
		ds = busy
		if err := pause(ctx, discardPoll); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (db *DB) discardKey(d digest.Digest) string {
	return db.key(partOfDigest(d), "discard:"+short(d))
}

func (db *DB) tryName(ctx context.Context, ds []digest.Digest, claim string) (busy []digest.Digest, err error) {
	var calls []call
	var indexes [][]int
	grouped(placesOf(ds), func(p part, is []int) {
		c := call{keys: []string{db.key(p, "named")}, args: []any{claim}}
		for _, i := range is {
			c.keys = append(c.keys, db.discardKey(ds[i]))
			c.args = append(c.args, short(ds[i]))
		}
		calls, indexes = append(calls, c), append(indexes, is)
	})
	replies, err := db.calls(ctx, scriptName, calls)
	if err != nil {
		return nil, err
	}
	for i, reply := range replies {
		numbers, err := reply.Int64Slice()
		if err != nil {
			return nil, err
		}
		for _, n := range numbers {
			busy = append(busy, ds[indexes[i][n-1]])
		}
	}
	return busy, nil
}

// named says for ever that something names the blobs.
func (db *DB) named(ctx context.Context, ds []digest.Digest) error {
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		grouped(placesOf(ds), func(p part, is []int) {
			pairs := make([]any, 0, 2*len(is))
			for _, i := range is {
				pairs = append(pairs, short(ds[i]), "1")
			}
			pipe.HSet(ctx, db.key(p, "named"), pairs...)
		})
		return nil
	})
	return err
}

// Unlinked implements store.Links. A blob on which there is a claim that has not
// ended counts as linked. What nothing names is asked of every repository besides.
func (db *DB) Unlinked(ctx context.Context, ds []digest.Digest) ([]digest.Digest, error) {
	out, err := db.unlinked(ctx, ds)
	if err == nil && len(out) > 0 {
		err = db.ensureKept(ctx) // after the question: what was lost before it is found out
	}
	if err != nil {
		return nil, annotate(err, "unlinked blobs")
	}
	return out, nil
}

// unlinkedPage is how many blobs are asked about at once.
const unlinkedPage = 10_000

func (db *DB) unlinked(ctx context.Context, ds []digest.Digest) (out []digest.Digest, err error) {
	for page := range slices.Chunk(ds, unlinkedPage) {
		values, found, err := db.fields(ctx, "named", placesOf(page))
		if err != nil {
			return nil, err
		}
		for i, d := range page {
			free := !found[i]
			if found[i] && values[i] != "1" { // a crash left it, or a link is on its way
				if free, err = db.claimsEnded(ctx, d, values[i]); err != nil {
					return nil, err
				}
			}
			if free {
				out = append(out, d)
			}
		}
	}
	return db.unheld(ctx, out)
}

// unheld are those that no repository holds: a failover may have lost what `named`
// says of one. What is held is named again. They are few, and about to be removed: so
// every repository is asked.
func (db *DB) unheld(ctx context.Context, ds []digest.Digest) (out []digest.Digest, err error) {
	if len(ds) == 0 {
		return nil, ctx.Err()
	}
	repos, err := db.repositories(ctx)
	if err != nil {
		return nil, err
	}
	for page := range slices.Chunk(ds, fieldsBatch) {
		held := make(map[digest.Digest]bool)
		for some := range slices.Chunk(repos, unheldRepos) {
			if err := db.heldBy(ctx, some, page, held); err != nil {
				return nil, err
			}
		}
		for _, d := range page {
			if !held[d] {
				out = append(out, d)
				continue
			}
			if err := db.named(ctx, []digest.Digest{d}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// unheldRepos is how many repositories are asked at once.
const unheldRepos = 64

func (db *DB) heldBy(ctx context.Context, repos []string, ds []digest.Digest, held map[digest.Digest]bool) error {
	fields := make([]string, len(ds))
	for i, d := range ds {
		fields[i] = short(d)
	}
	var cmds []*redis.SliceCmd
	if _, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, repo := range repos {
			cmds = append(cmds, pipe.HMGet(ctx, db.repoKey(inRepo(repo), "holders"), fields...), pipe.HMGet(ctx, db.repoKey(inRepo(repo), "links"), fields...))
		}
		return nil
	}); err != nil {
		return err
	}
	for _, cmd := range cmds {
		for i, v := range cmd.Val() {
			held[ds[i]] = held[ds[i]] || v != nil
		}
	}
	return nil
}

// claimsEnded reports whether all claims on a blob came to nothing. If one was
// followed by its link, the blob is named for ever.
func (db *DB) claimsEnded(ctx context.Context, d digest.Digest, claims string) (bool, error) {
	ended := true
	for c := range splitLines(claims) {
		until, repository, manifest, err := parseClaim(c)
		if err != nil {
			return false, fmt.Errorf("claims on %s: %w", d, err)
		}
		linked, err := db.rdb.HExists(ctx, db.repoKey(inRepo(repository), "links"), short(manifest)).Result()
		if err != nil {
			return false, err
		}
		if linked {
			// Its Link would have done that. It may fail: there is another time.
			_ = db.named(ctx, []digest.Digest{d})
			return false, nil
		}
		ended = ended && time.Now().After(until)
	}
	return ended, nil
}

func parseClaim(c string) (until time.Time, repository string, manifest digest.Digest, err error) {
	fields := strings.Split(c, " ")
	if len(fields) != 3 {
		return time.Time{}, "", "", errors.New("stored claim is damaged")
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	return time.UnixMilli(n), fields[1], digest.Digest(fields[2]), err
}

// Discard implements store.Links.
func (db *DB) Discard(ctx context.Context, d digest.Digest, remove func() error) error {
	token := db.cfg.Replica + " " + randomName()
	for {
		free, claims, err := db.free(ctx, d)
		if err == nil && free {
			err = db.ensureKept(ctx)
		}
		if err != nil || !free {
			return annotate(err, "discard %s", d)
		}
		got, err := scriptDiscard.Run(ctx, db.rdb, []string{db.key(partOfDigest(d), "named"), db.discardKey(d)},
			short(d), claims, token, discardLife.Milliseconds()).Int()
		if err != nil {
			return annotate(err, "discard %s", d)
		}
		if got == 1 {
			break
		}
		// Claimed since, or being removed by another: look again.
		if err := pause(ctx, discardPoll); err != nil {
			return annotate(err, "discard %s", d)
		}
	}
	return annotate(db.underLock(ctx, db.discardKey(d), token, remove), "discard %s", d)
}

// free reports whether nothing names a blob, with claims on it that came to nothing.
func (db *DB) free(ctx context.Context, d digest.Digest) (free bool, claims string, err error) {
	claims, err = db.rdb.HGet(ctx, db.key(partOfDigest(d), "named"), short(d)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return true, "", nil
	case err != nil:
		return false, "", err
	case claims == "1":
		return false, "", nil
	}
	free, err = db.claimsEnded(ctx, d, claims)
	return free, claims, err
}

// underLock keeps a lock alive while remove runs, and gives it back.
func (db *DB) underLock(ctx context.Context, key, token string, remove func() error) error {
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(discardLife / 3)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				own, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.cfg.Timeout)
				_ = scriptRenew.Run(own, db.rdb, []string{key}, token, discardLife.Milliseconds()).Err()
				cancel()
			}
		}
	}()
	defer func() {
		close(ended)
		<-stopped
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.cfg.Timeout)
		defer cancel()
		_ = scriptDiscarded.Run(own, db.rdb, []string{key}, token).Err() // if it fails, the lock runs out
	}()
	return remove()
}

// linkDocument is the name of the document that `pratique rebuild` makes a link of
// again.
func linkDocument(ref pratique.Ref, d digest.Digest) string {
	plain := strings.NewReplacer("[", "_", "]", "_") // an upstream may be a literal address
	return "links/" + plain.Replace(ref.Registry) + "/" + ref.Repo + "/" + strings.Replace(d.String(), ":", "-", 1)
}
