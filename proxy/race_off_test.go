//go:build !race

package proxy_test

// raceDetector multiplies memory, so that it cannot be measured.
const raceDetector = false
