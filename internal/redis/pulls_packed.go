package redis

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// A pull in a list is
//
//	6 bytes  nanoseconds since the hour began, times 64, plus the tie: pulls of one
//	         process and one time are in its order; big endian
//	varint   number of what was asked, times 4, plus the kind of client
//	rest     the client: 4 or 16 bytes of an address, or text
//
// and what was asked is a JSON array: registry, repository, tag, digest, outcome,
// verdict and, when it was a HEAD, "head".

// Kinds of client.
const (
	clientText = iota
	client4
	client16
)

const (
	hourNanos = int64(time.Hour)
	tieBits   = 6
	ties      = 1 << tieBits
)

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func hourOf(n int64) int64   { return floorDiv(n, hourNanos) }
func dayOf(hour int64) int64 { return floorDiv(hour, 24) }

// partOfPull is where a pull is kept: with others of its image.
func partOfPull(p *store.Pull) part {
	if p.Ref.Digest == "" {
		return partOfRepo(p.Ref)
	}
	return partOfDigest(p.Ref.Digest)
}

func packTime(n int64, tie uint32) []byte {
	var b [8]byte
	offset := uint64(n - hourOf(n)*hourNanos)                              //nolint:gosec // less than an hour
	binary.BigEndian.PutUint64(b[:], offset<<tieBits|uint64(tie&(ties-1))) // below 2^48
	return b[2:]
}

func packClient(client string) (kind int, b []byte) {
	if a, err := netip.ParseAddr(client); err == nil && a.Zone() == "" && a.String() == client {
		if a.Is4() {
			b := a.As4()
			return client4, b[:]
		}
		b := a.As16()
		return client16, b[:]
	}
	return clientText, []byte(client)
}

func askedText(p *store.Pull) (string, error) {
	fields := []string{p.Ref.Registry, p.Ref.Repo, p.Ref.Tag, string(p.Ref.Digest), p.Outcome.String(), p.Verdict}
	if p.Head {
		fields = append(fields, "head")
	}
	b, err := json.Marshal(fields)
	return string(b), err
}

// parseAsked undoes askedText.
func parseAsked(text string) (*store.Pull, error) {
	var f []string
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return nil, fmt.Errorf("stored pull: %w", err)
	}
	if len(f) < 6 {
		return nil, errors.New("stored pull: too short")
	}
	p := &store.Pull{Ref: pratique.Ref{Registry: f[0], Repo: f[1], Tag: f[2], Digest: digest.Digest(f[3])}, Verdict: f[5], Head: len(f) > 6}
	return p, p.Outcome.UnmarshalText([]byte(f[4]))
}

// pullRow is a pull as it is read: what repeats is shared.
type pullRow struct {
	at    int64
	tie   uint8
	kind  uint8
	from  string // the client, packed
	asked *store.Pull
}

func (r *pullRow) pull() store.Pull {
	p := *r.asked
	p.Client, p.At = r.client(), at(r.at)
	return p
}

func (r *pullRow) client() string {
	if r.kind == clientText {
		return r.from
	}
	a, _ := netip.AddrFromSlice([]byte(r.from))
	return a.String()
}

// byTime sorts pulls; those of one time as they were recorded, by one process, as
// long as there are not too many of them.
func byTime(a, b pullRow) int {
	if c := cmp.Compare(a.at, b.at); c != 0 || a.tie == b.tie {
		return c
	}
	if (a.tie-b.tie)%ties < ties/2 {
		return 1
	}
	return -1
}

// readPulls appends what scriptPullsRead returned: of hours of one day, and of what
// was asked only what is wanted (nil: all).
func readPulls(rows []pullRow, cmd *redis.Cmd, hours []int64, want func(p *store.Pull) bool) ([]pullRow, error) {
	lists, err := cmd.Slice()
	if err != nil {
		return nil, err
	}
	if len(lists) != len(hours)+1 {
		return nil, fmt.Errorf("stored pulls: %d lists of %d hours", len(lists)-1, len(hours))
	}
	asked, err := readAsked(lists[0], want)
	if err != nil || len(asked) == 0 {
		return rows, err
	}
	for i, hour := range hours {
		list, _ := lists[i+1].([]any)
		for _, e := range list {
			text, _ := e.(string)
			row, number, err := parsePull(text, hour)
			if err != nil {
				return nil, err
			}
			if row.asked = asked[number]; row.asked != nil {
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

func readAsked(pairs any, want func(p *store.Pull) bool) (map[uint64]*store.Pull, error) {
	fields, _ := pairs.([]any)
	out := make(map[uint64]*store.Pull, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		text, _ := fields[i].(string)
		number, _ := fields[i+1].(string)
		n, err := parseDigits(number)
		if err != nil {
			return nil, err
		}
		p, err := parseAsked(text)
		if err != nil {
			return nil, err
		}
		if want == nil || want(p) {
			out[uint64(n)] = p //nolint:gosec // a number of the script's
		}
	}
	return out, nil
}

func parsePull(text string, hour int64) (row pullRow, asked uint64, err error) {
	if len(text) < 7 {
		return row, 0, errors.New("stored pull: too short")
	}
	b := []byte(text)
	offset := binary.BigEndian.Uint64(append([]byte{0, 0}, b[:6]...))
	number, n := binary.Uvarint(b[6:])
	if n <= 0 {
		return row, 0, errors.New("stored pull: no number")
	}
	row = pullRow{at: hour*hourNanos + int64(offset>>tieBits), tie: uint8(offset % ties), kind: uint8(number % 4), from: text[6+n:]} //nolint:gosec // 42, 6 and 2 bits
	if row.kind == client4 && len(row.from) != 4 || row.kind == client16 && len(row.from) != 16 || row.kind > client16 {
		return row, 0, errors.New("stored pull: its client is broken")
	}
	return row, number / 4, nil
}
