package hook

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"pratique/store"
)

// told counts what a call said.
type told struct {
	// Accepted pushes are followed up, Duplicate ones were before, Ignored events are
	// none, or about another registry, Invalid ones name no image.
	Accepted  int `json:"accepted"`
	Duplicate int `json:"duplicate"`
	Ignored   int `json:"ignored"`
	Invalid   int `json:"invalid"`
}

func (t *told) outcome() string {
	switch {
	case t.Accepted > 0:
		return outcomeAccepted
	case t.Duplicate > 0:
		return outcomeDuplicate
	}
	return outcomeIgnored
}

// answer writes one. No answer repeats what was sent.
func answer(w http.ResponseWriter, p *problem, t *told) {
	var body any = t
	status := http.StatusAccepted
	if p != nil {
		status, body = p.status, map[string]string{"error": p.text}
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who left need not be told
}

// take authenticates a call, reads it and hands on what it tells.
func (h *hook) take(w http.ResponseWriter, r *http.Request, secret string, t *told) *problem {
	// What can be known without the body is asked before it is read.
	if early, ok := h.prove.early(r, secret); ok && !early {
		return h.refused()
	} else if ok && !h.allow(h.taken) {
		return errLimited
	}
	if r.ContentLength > maxBody {
		return errTooLarge
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		return errBusy
	}
	body, p := readBody(w, r)
	if p != nil {
		return p
	}
	if late, ok := h.prove.late(r, body); ok && !late {
		return h.refused()
	} else if ok && !h.allow(h.taken) {
		return errLimited
	}
	return h.tell(r, body, t)
}

// agree answers a sender of CloudEvents that asks, with the secret, whether it may
// call. Source: "HTTP 1.1 Web Hooks for Event Delivery", 4. Azure Event Grid asks so.
func (h *hook) agree(w http.ResponseWriter, r *http.Request, secret string) {
	if authentic, ok := h.prove.early(r, secret); !ok || !authentic {
		p := h.refused()
		h.metrics.calls.WithLabelValues(h.name, p.outcome).Inc()
		h.log(r, p)
		answer(w, p, nil)
		return
	}
	w.Header().Set("Allow", http.MethodPost)
	w.Header().Set("WebHook-Allowed-Origin", "*") // the secret says who may
	w.Header().Set("WebHook-Allowed-Rate", strconv.Itoa(h.Rate))
	w.WriteHeader(http.StatusOK)
}

func (h *hook) allow(l *rate.Limiter) bool { return l.AllowN(h.cfg.Now(), 1) }

// refused is the answer to a call without the secret. Those are counted for
// themselves, so that nobody can use up what the registry may call.
func (h *hook) refused() *problem {
	if !h.allow(h.wrong) {
		return errLimited
	}
	return errProof
}

// readBody reads at most maxBody.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, errTooLarge
	case err != nil:
		return nil, errBody
	}
	return body, nil
}

// tell reads an authentic body.
func (h *hook) tell(r *http.Request, body []byte, t *told) *problem {
	if err := checkJSON(body); err != nil {
		return invalid("the body is no JSON that is read here: " + err.Error())
	}
	events, err := h.parse(&message{receiver: &h.Receiver, header: r.Header, body: body})
	if err != nil {
		return invalid("the body is no payload of type " + string(h.Type) + ": " + err.Error())
	}
	if len(events) > maxEvents {
		return invalid("more than 100 events in one body")
	}
	now := h.cfg.Now()
	var ps []store.Push
	var fresh []event
	for _, e := range events {
		switch {
		case e.ignored:
			t.Ignored++
			continue
		case e.err != nil:
			t.Invalid++
			continue
		}
		p := store.Push{Ref: e.ref, Deleted: e.deleted, At: now}
		if h.seen.before(e) {
			t.Duplicate++
			continue
		}
		ps, fresh = append(ps, p), append(fresh, e)
		h.seen.note(e)
	}
	if t.Invalid > 0 && len(ps) == 0 && t.Ignored == 0 && t.Duplicate == 0 {
		return invalid("no event names an image that can be")
	}
	if len(ps) == 0 {
		return nil
	}
	// Kept although the caller leaves: it will not tell again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
	defer cancel()
	if err := h.pushes.Put(ctx, ps); err != nil {
		for _, e := range fresh {
			h.seen.forget(e)
		}
		if errors.Is(err, ErrFull) {
			return errFull
		}
		h.cfg.Log.ErrorContext(ctx, "webhook could not be kept", "hook", h.name, "error", err)
		return errInternal
	}
	t.Accepted = len(ps)
	return nil
}
