package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// ImageList is a page of known images in order of digest.
type ImageList struct {
	Images []Image `json:"images"`
	// Next is the value of after for the following page; "" on the last one.
	Next string `json:"next,omitempty"`
}

// Image is one known image as a client without a name would meet it now.
type Image struct {
	Ref     string           `json:"ref"`
	Digest  digest.Digest    `json:"digest"`
	State   string           `json:"state"`
	Outcome pratique.Outcome `json:"outcome"`
	// Pending: what its rules need to know is being looked up; a client would wait.
	Pending bool `json:"pending,omitempty"`
	// Error says why that cannot be found out; a client would get it, and nothing
	// else.
	Error string `json:"error,omitempty"`
	// Findings counts by severity; null when the image was not read.
	Findings  *Counts    `json:"findings"`
	ScannedAt *time.Time `json:"scannedAt"`
}

// Counts of findings by severity.
type Counts struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Unknown  int `json:"unknown"`
}

// Add counts one finding, unless it is a license.
func (c *Counts) Add(f CheckFinding) {
	if f.Kind == pratique.KindLicense {
		return
	}
	switch f.Severity {
	case pratique.SeverityCritical:
		c.Critical++
	case pratique.SeverityHigh:
		c.High++
	case pratique.SeverityMedium:
		c.Medium++
	case pratique.SeverityLow:
		c.Low++
	default:
		c.Unknown++
	}
}

// Limits of a page of images.
const (
	defaultPage = 100
	maxPage     = 1000
)

// images answers GET /api/v1/images?after=DIGEST&limit=N.
func (s *server) images(w http.ResponseWriter, r *http.Request) error {
	if s.Catalog == nil || s.Gate == nil {
		return unavailable("the list of images")
	}
	limit := defaultPage
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return badRequest("limit is not a positive number: "+text, "write for example limit=100")
		}
		limit = min(n, maxPage)
	}
	var after digest.Digest
	if text := r.URL.Query().Get("after"); text != "" {
		d, err := pratique.ParseDigest(text)
		if err != nil {
			return badRequest("after is not a digest: "+text, "pass the value of next of the page before")
		}
		after = d
	}
	out, err := s.page(r.Context(), after, limit)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// page collects the images behind after.
func (s *server) page(ctx context.Context, after digest.Digest, limit int) (ImageList, error) {
	out := ImageList{Images: []Image{}}
	for known, err := range s.Catalog.Images(ctx) {
		if err != nil {
			return ImageList{}, err
		}
		if known.Image.Digest <= after {
			continue
		}
		if len(out.Images) == limit {
			out.Next = out.Images[limit-1].Digest.String()
			break
		}
		img, err := s.image(ctx, known)
		if err != nil {
			return ImageList{}, err
		}
		out.Images = append(out.Images, img)
	}
	return out, nil
}

// image tells of one known image what stands.
func (s *server) image(ctx context.Context, known store.Known) (Image, error) {
	d, err := s.Gate.Standing(ctx, known.Ref, known.Image)
	pending := errors.Is(err, pratique.ErrPending)
	text := ""
	if err != nil && !pending {
		// What a client would be answered is about this image; everything else is
		// about the list.
		answer, ok := errors.AsType[interface {
			error
			Status() int
		}](err)
		if !ok {
			return Image{}, err
		}
		text = plain(answer.Error())
		if cause := errors.Unwrap(answer); cause != nil {
			text += ": " + cause.Error()
		}
	}
	if err != nil {
		d.Verdict.Outcome = pratique.OutcomeDeny
	}
	facts := newReport(d.Report)
	img := Image{
		Ref:       typedRef(known.Ref.At(known.Image.Digest)),
		Digest:    known.Image.Digest,
		State:     facts.State,
		Outcome:   d.Verdict.Outcome,
		Pending:   pending,
		Error:     text,
		ScannedAt: facts.ScannedAt,
	}
	if facts.Findings != nil {
		img.Findings = new(Counts)
		for _, f := range facts.Findings {
			img.Findings.Add(f)
		}
	}
	return img, nil
}
