"""The Go-style assembly that Pushcall brings, as package data."""

from __future__ import annotations

from pathlib import Path


def text(name: str) -> str:
    """A file of this directory. (importlib.resources would be the slowest import of a run.)"""
    return Path(__file__).with_name(name).read_text("utf-8")
