package notify

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf8"

	"pratique/store"
)

// Limits of what chats take; they cut or refuse what is longer.
const (
	maxSlack      = 40_000   // characters of text
	maxMattermost = 16_383   // characters of a post
	maxTeams      = 28 << 10 // bytes of a message
)

func jsonMessage(doc any) (message, error) {
	body, err := json.Marshal(doc)
	return message{header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}, body: body}, err
}

// cut keeps at most n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// slack is what Slack's incoming webhooks take. What begins with & < > would be
// markup: mentions, links.
func slack(e store.Event, link string) (message, error) {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	doc := map[string]any{}
	if link != "" {
		link = "\n<" + escape.Replace(link) + "|Details>"
		doc["unfurl_links"] = false // nobody but who clicks asks for it
	}
	text := textOf(e)
	whole := escape.Replace(text) + link
	for n := maxSlack; utf8.RuneCountInString(whole) > maxSlack; n -= 1000 {
		whole = escape.Replace(cut(text, n)) + link // never in the middle of an escape
	}
	doc["text"] = whole
	return jsonMessage(doc)
}

// title names an event for people, and says in what colour.
func title(kind string) (text, colour string) {
	switch kind {
	case TypeRefused, TypeChanged, TypeSummary, TypeScanFailed, TypeGraceEnded:
		colour = "#c0392b"
	case TypeGraceStarted, TypeGraceEnding, TypeExceptionSoon, TypeExceptionEnded:
		colour = "#d68910"
	default:
		colour = "#2e7d32"
	}
	return "Pratique: " + strings.ReplaceAll(strings.TrimPrefix(kind, typePrefix), ".", " "), colour
}

// markdown is what Mattermost reads as more than text.
var markdown = regexp.MustCompile("[\\\\`*_~\\[\\](){}#|<>!+.-]")

// plain has Markdown show a text as it is. A word after @ would be somebody to
// call, unless it is a digest: a character of no width stands between.
func plain(s string) string {
	s = markdown.ReplaceAllString(s, `\$0`)
	s = strings.ReplaceAll(s, "@", "@\u200b")
	s = strings.ReplaceAll(s, "@\u200bsha256:", "@sha256:")
	return strings.ReplaceAll(s, "@\u200bsha512:", "@sha512:")
}

// mattermost is a message attachment of Mattermost's incoming webhooks.
func mattermost(e store.Event, link string) (message, error) {
	type attachment struct {
		Fallback  string `json:"fallback"`
		Color     string `json:"color"`
		Title     string `json:"title"`
		TitleLink string `json:"title_link,omitempty"`
		Text      string `json:"text"`
	}
	text := textOf(e)
	if link != "" {
		link = "\n[Details](" + link + ")"
	}
	shown := plain(text) + link
	for n := maxMattermost; utf8.RuneCountInString(shown) > maxMattermost; n -= 1000 {
		shown = plain(cut(text, n)) + link
	}
	head, colour := title(e.Type)
	a := attachment{Fallback: plain(cut(text, 1000)), Color: colour, Title: head, Text: shown}
	return jsonMessage(map[string]any{"attachments": []attachment{a}})
}

// teams is what a workflow "when a Teams webhook request is received" takes: an
// Adaptive Card in a message. A text run is shown as it is, where a text block would
// be read as Markdown.
func teams(e store.Event, link string) (message, error) {
	type object = map[string]any
	head, _ := title(e.Type)
	for text := textOf(e); ; text = cut(text, utf8.RuneCountInString(text)*3/4) {
		var inlines []object
		for i, part := range strings.Split(text, "\n") {
			if i > 0 {
				part = "\n" + part
			}
			inlines = append(inlines, object{"type": "TextRun", "text": part})
		}
		card := object{
			"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
			"msteams": object{"width": "Full"},
			"body": []object{
				{"type": "TextBlock", "text": head, "weight": "Bolder", "wrap": true},
				{"type": "RichTextBlock", "inlines": inlines},
			},
		}
		if link != "" {
			card["actions"] = []object{{"type": "Action.OpenUrl", "title": "Details", "url": link}}
		}
		m, err := jsonMessage(object{"type": "message", "attachments": []object{{
			"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil, "content": card,
		}}})
		if err != nil || len(m.body) <= maxTeams {
			return m, err
		}
	}
}
