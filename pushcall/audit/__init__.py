"""Where code can be preempted and where never: read from tables, without running it."""
