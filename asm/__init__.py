"""Text to machine code: Go-style assembly, each result read back and compared."""
