"""The Go-style assembly that Pushcall brings, as package data."""
