package scanner

import "pratique"

// ConfigFacts is configFacts.
func ConfigFacts(raw []byte) pratique.ConfigFacts { return configFacts(raw) }
