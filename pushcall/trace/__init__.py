"""A run recorded whole, and what shows it: the viewer, text, pages and drawings."""
