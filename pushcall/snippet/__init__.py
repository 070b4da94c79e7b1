"""A snippet: what is to be run, from files and options; its run; how runs are told."""
