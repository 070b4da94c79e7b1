"""Unmodified Go executables: run, traced, checked, saved, controlled by gdb."""
