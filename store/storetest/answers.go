package storetest

import (
	"testing"

	"pratique/store"
)

// Answers are what the contracts say of a state that Fill filled, by what was asked.
func Answers(t *testing.T, s Dumpable) map[string]any {
	t.Helper()
	return (&happenings{t: t}).answers(s)
}

// Records are all records of a state, by kind and key, as they are compared.
func Records(t *testing.T, s store.Dumper) map[string]map[string]string {
	t.Helper()
	out := make(map[string]map[string]string)
	for _, kind := range store.Kinds() {
		out[string(kind)] = records(t, s, kind)
	}
	return out
}
