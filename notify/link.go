package notify

import (
	"encoding/json"
	"net/url"
	"strings"

	"pratique/store"
)

// find is where a person finds more about an event: at the admin address. Empty
// when nobody said where that is.
func (s *sink) find(e store.Event) string {
	if s.base == "" {
		return ""
	}
	query := url.Values{}
	switch e.Type {
	case TypeSummary:
		query.Set("type", strings.TrimPrefix(TypeChanged, typePrefix))
		query.Set("cause", e.Cause)
	case TypeScans:
		query.Set("type", strings.TrimPrefix(TypeScanned, typePrefix))
		query.Set("cause", e.Cause)
	case TypeDatabase:
		query.Set("cause", e.Cause)
	case TypeRefused:
		var data struct{ Verdict string }
		if json.Unmarshal(e.Data, &data) == nil && data.Verdict != "" {
			return s.base + "/api/v1/verdicts/" + url.PathEscape(data.Verdict)
		}
		query.Set("id", e.ID)
	case TypeExceptionMade, TypeExceptionSoon, TypeExceptionEnded, TypeExceptionTaken:
		return s.base + "/api/v1/exceptions/" + url.PathEscape(e.Subject)
	default:
		query.Set("id", e.ID)
	}
	return s.base + "/api/v1/events?" + query.Encode()
}
