package store

import "os"

// ReplaceFile makes s write to f.
func ReplaceFile(s *Spool, f *os.File) {
	_ = s.file.Close()
	s.file = f
}
