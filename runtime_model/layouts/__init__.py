"""Struct layouts of Go's runtime by version, as package data."""
