// Package helm checks what is in deploy: see helm_test.go.
package helm
