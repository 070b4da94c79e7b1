"""Snippets that say what they expect, and the bugs that programs have met."""
