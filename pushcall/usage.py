"""What a user gave that cannot be: every command tells it the same way."""

from __future__ import annotations


class UsageError(Exception):
    """Bad input that is not in the assembly text: one message, exit status 2."""
