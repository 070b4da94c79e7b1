"""Preemptions at every boundary: made, compared, shared out, explained."""
