package main

import (
	"pratique/scheduler"
	"pratique/store"
)

// state is a backend: everything but the bytes of blobs.
type state interface {
	store.State
	scheduler.Queue
	scheduler.Jobs
	scheduler.Pauses
	scheduler.Runs
}
