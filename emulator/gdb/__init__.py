"""gdb's remote serial protocol, served for a machine."""
