"""A trampoline's machine code: its faults, and where each byte of its state comes from."""
