package match

// Remembered is how many licenses are.
func Remembered(m *Matcher) int { return len(m.licenses.entries) }
