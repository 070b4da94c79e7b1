"""Text to machine code: Go-style assembly through Keystone, and the assembly that Pushcall brings."""
