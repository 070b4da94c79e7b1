"""A Linux for user programs: threads, signals and their frames, clock, system calls."""
