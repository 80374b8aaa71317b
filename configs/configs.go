// Package configs holds the configuration and the policies that Pratique ships
// with, and embeds those that apply when an operator names none. It holds data
// only and imports nothing.
package configs

import _ "embed"

// DefaultPolicy is policies/default.yaml, in force when the configuration has
// no `policies` key. Callers must not change it.
//
//go:embed policies/default.yaml
var DefaultPolicy []byte
