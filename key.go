package pratique

import "strings"

// PackageKey folds the name of a package, or of a package's bucket in a
// vulnerability database, into the key under which the two are held to be the
// same. It may fold names together that are different (then a component is
// matched once too often), and never keeps names apart that a detector takes for
// one: ecosystems differ in what they ignore (case, `_` for `-`, a URL's scheme and
// ending), and module streams stand before the name (`nodejs:12::npm`). What a
// detector makes of a name, it folds like the name itself.
func PackageKey(name string) string {
	if i := strings.LastIndex(name, "::"); i >= 0 {
		name = name[i+2:]
	}
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	for { // a detector takes off one layer, and what it looks for may have another
		inner := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(name), "https://"), ".git")
		if inner == name {
			return name
		}
		name = inner
	}
}

// TypeKey is the key of all components of an OS family or a language type
// (Context.Type), for what moves them all: an end of support, a table of a vendor.
func TypeKey(kind string) string { return "type " + kind }

// Keys are the keys of everything in a database that can decide what it says of
// the component: its name's, its source package's, and its type's. No two are equal.
func (c Component) Keys() []string {
	out := []string{TypeKey(c.Context.Type), PackageKey(c.Name)}
	if k := PackageKey(c.SrcName); c.SrcName != "" && k != out[1] {
		out = append(out, k)
	}
	return out
}
