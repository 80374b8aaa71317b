package pratique

import "context"

type unhurriedKey struct{}

// Unhurried returns a context for work that nobody waits for, such as a prefetch or
// a scan in the background. Who shares something out (the queue's workers, the
// analyzer's processes) keeps a part of it for those that are waited for.
func Unhurried(ctx context.Context) context.Context {
	return context.WithValue(ctx, unhurriedKey{}, true)
}

// IsUnhurried reports whether nobody waits for the work of ctx.
func IsUnhurried(ctx context.Context) bool {
	b, _ := ctx.Value(unhurriedKey{}).(bool)
	return b
}
