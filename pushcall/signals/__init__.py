"""Snippets on the real processor, preempted by the kernel's own SIGURGs."""
