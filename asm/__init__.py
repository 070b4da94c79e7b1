"""Text to machine code: Go-style assembly, encoded by Keystone, each result checked."""
