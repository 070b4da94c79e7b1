"""Benchmarks: `make bench`. What is compared runs interleaved in one process; medians count."""
