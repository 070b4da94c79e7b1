"""Go's runtime: structures in emulated memory, signals, safe points, scheduler, sysmon."""
