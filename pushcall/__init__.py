"""What people touch: command line, checks, traces, reports, the pytest plugin."""
