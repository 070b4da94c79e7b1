"""The real processor: a fenced child under ptrace, stepped, probed or run freely."""
