package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var _ store.Tags = (*DB)(nil)

// packTag is a tag as it is stored, see luaTags.
func packTag(s store.TagState) string {
	return s.Digest.String() + "\n" + timeText(s.ChangedAt) + "\n" + timeText(s.CheckedAt) + "\n" + tagRest(s)
}

// tagRest is the part of it that scripts do not look into.
func tagRest(s store.TagState) string { return strconv.FormatInt(s.Size, 10) + "\n" + s.MediaType }

func unpackTag(v string) (s store.TagState, err error) {
	fields := strings.SplitN(v, "\n", 5)
	if len(fields) != 5 {
		return s, errors.New("stored tag is damaged")
	}
	s.Digest, s.MediaType = digest.Digest(fields[0]), fields[4]
	var errs [3]error
	s.ChangedAt, errs[0] = textTime(fields[1])
	s.CheckedAt, errs[1] = textTime(fields[2])
	s.Size, errs[2] = strconv.ParseInt(fields[3], 10, 64)
	return s, errors.Join(errs[:]...)
}

// Tag implements store.Tags.
func (db *DB) Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error) {
	v, err := db.rdb.HGet(ctx, db.repoKey(ref, "tags"), ref.Tag).Result()
	if err != nil {
		return store.TagState{}, annotate(missing(err), "tag %s:%s", ref.Repository(), ref.Tag)
	}
	s, err := unpackTag(v)
	return s, annotate(err, "tag %s:%s", ref.Repository(), ref.Tag)
}

// SetTag implements store.Tags. The usual case, a tag that names what it named, is
// one round trip. A tag and its spans change together, and tell in the same step of
// what that concerns. Before it comes the way from the digest to the repository
// (`trails`): one that leads to no tag means nothing.
func (db *DB) SetTag(ctx context.Context, ref pratique.Ref, s store.TagState) error {
	return annotate(db.setTag(ctx, ref, s), "tag %s:%s", ref.Repository(), ref.Tag)
}

func (db *DB) setTag(ctx context.Context, ref pratique.Ref, s store.TagState) (err error) {
	told := []digest.Digest{store.TagKey(ref)}
	defer func() { db.changes.wrote(err, told) }()
	state, before, err := db.putTag(ctx, ref, s, false, nil)
	if err == nil && state == tagSame {
		return nil
	}
	if s.Digest != "" {
		told = append(told, s.Digest)
	}
	if err != nil {
		return err
	}
	if err := db.putTrail(ctx, ref, s.Digest); err != nil {
		return err
	}
	concerned, err := db.tagConcerns(ctx, append(before, s.Digest))
	if err != nil {
		return err
	}
	told = append(told, concerned.list()...)
	_, before, err = db.putTag(ctx, ref, s, true, concerned)
	if concerned.all {
		db.changes.wroteAny(err)
	}
	if err != nil || concerned.all {
		return err
	}
	// What became known meanwhile, see linkConcerns.
	return db.tellRest(ctx, append(before, s.Digest), concerned)
}

// tellRest tells of what a tag concerns now and was not told of when it moved.
func (db *DB) tellRest(ctx context.Context, named []digest.Digest, told *concerned) error {
	now, err := db.tagConcerns(ctx, named)
	if err != nil {
		db.changes.wroteAny(err)
		return err
	}
	if now.all {
		return db.everythingChanged(ctx)
	}
	var rest []digest.Digest
	for d := range now.ds {
		if _, ok := told.ds[d]; !ok {
			rest = append(rest, d)
		}
	}
	return db.changed(ctx, rest...)
}

// What scriptSetTag did.
const (
	tagKept = iota // it would have had to move the tag
	tagSame
	tagMoved
)

// putTag stores a tag, and only if it may, one that names something else now. before
// is all that it named.
func (db *DB) putTag(ctx context.Context, ref pratique.Ref, s store.TagState, may bool, concerned *concerned) (state int64, before []digest.Digest, err error) {
	p := partOfRepo(ref)
	keys := []string{
		db.key(p, "version"), db.key(p, "repositories"), db.repoKey(ref, "tags"), db.repoKey(ref, "spans"),
		db.repoKey(ref, "history"), db.repoKey(ref, "naming"), db.key(p, "moves"),
	}
	args := []any{
		db.channel(changesChannel), string(p), ref.Repository(), ref.Tag, s.Digest.String(), timeText(s.ChangedAt), timeText(s.CheckedAt),
		tagRest(s), max(nanos(s.ChangedAt), 0) / 1000, may, string(store.TagKey(ref)),
	}
	switch {
	case concerned == nil:
	case concerned.all:
		args = append(args, "*")
	default:
		for _, d := range concerned.list() {
			args = append(args, string(d))
		}
	}
	reply, err := scriptSetTag.Run(ctx, db.rdb, keys, args...).Slice()
	if err != nil {
		return 0, nil, err
	}
	state, _ = reply[0].(int64)
	if len(reply) > 1 {
		history, _ := reply[1].(string)
		for d := range splitLines(history) {
			before = append(before, digest.Digest(d))
		}
	}
	return state, before, nil
}

// putTrail notes that a tag of the repository is about to name d.
func (db *DB) putTrail(ctx context.Context, ref pratique.Ref, d digest.Digest) error {
	if d == "" {
		return nil
	}
	_, err := db.calls(ctx, scriptNote, []call{{[]string{db.key(partOfDigest(d), "trails")}, []any{short(d), ref.Repository()}}})
	return err
}

// tagList is a list as it is stored.
type tagList struct {
	Fetched int64    `json:"fetched"`
	Tags    []string `json:"tags"`
}

func (db *DB) tagList(ctx context.Context, ref pratique.Ref) (list tagList, err error) {
	doc, err := db.rdb.HGet(ctx, db.key(partOfRepo(ref), "lists"), ref.Repository()).Bytes()
	if err == nil {
		err = db.Decode(doc, &list)
	}
	return list, missing(err)
}

// TagList implements store.Tags.
func (db *DB) TagList(ctx context.Context, ref pratique.Ref) ([]string, time.Time, error) {
	list, err := db.tagList(ctx, ref)
	if err != nil {
		return nil, time.Time{}, annotate(err, "tags of %s", ref.Repository())
	}
	return list.Tags, at(list.Fetched), nil
}

// seeBatch is how many tags of a list are noted at once.
const seeBatch = 1000

// SetTagList implements store.Tags. Tags are noted before the list that names them:
// those of a list that is kept are noted.
func (db *DB) SetTagList(ctx context.Context, ref pratique.Ref, tags []string, fetched time.Time) (err error) {
	key := store.TagKey(pratique.Ref{Registry: ref.Registry, Repo: ref.Repo})
	defer func() { db.changes.wrote(err, []digest.Digest{key}) }()
	return annotate(db.setTagList(ctx, ref, tags, fetched, key), "tags of %s", ref.Repository())
}

func (db *DB) setTagList(ctx context.Context, ref pratique.Ref, tags []string, fetched time.Time, key digest.Digest) error {
	before, err := db.tagList(ctx, ref)
	if err != nil && !isMissing(err) {
		return err
	}
	doc, err := db.Encode(tagList{nanos(fetched), tags})
	if err != nil {
		return err
	}
	if err := db.seeTags(ctx, ref, unlisted(before.Tags, tags), fetched); err != nil {
		return err
	}
	p := partOfRepo(ref)
	return scriptSetTagList.Run(ctx, db.rdb, []string{db.key(p, "version"), db.key(p, "repositories"), db.key(p, "lists")},
		db.channel(changesChannel), string(p), ref.Repository(), doc, string(key)).Err()
}

// seeTags notes since when tags are in lists.
func (db *DB) seeTags(ctx context.Context, ref pratique.Ref, tags []string, since time.Time) error {
	var calls []call
	for len(tags) > 0 {
		n := min(len(tags), seeBatch)
		c := call{[]string{db.key(partOfRepo(ref), "repositories"), db.repoKey(ref, "seen")}, []any{ref.Repository(), timeText(since)}}
		for _, t := range tags[:n] {
			c.args = append(c.args, t)
		}
		calls, tags = append(calls, c), tags[n:]
	}
	if len(calls) == 0 {
		return nil
	}
	_, err := db.calls(ctx, scriptSee, calls)
	return err
}

// unlisted are those of tags that the list before lacks: the others were noted with
// it.
func unlisted(before, tags []string) []string {
	have := make(map[string]bool, len(before))
	for _, t := range before {
		have[t] = true
	}
	var out []string
	for _, t := range tags {
		if !have[t] {
			out = append(out, t)
		}
	}
	return out
}

// TagsSeen implements store.Lineage.
func (db *DB) TagsSeen(ctx context.Context, ref pratique.Ref) (map[string]time.Time, error) {
	out := make(map[string]time.Time)
	err := db.scanned(ctx, db.repoKey(ref, "seen"), func(tag, since string) (err error) {
		out[tag], err = textTime(since)
		return err
	})
	if err != nil {
		return nil, annotate(err, "tags seen of %s", ref.Repository())
	}
	return out, nil
}

// errDamaged says what is stored is not what this package writes.
func errDamaged(what string) error { return fmt.Errorf("stored %s is damaged", what) }
