"""The comments at the start of a snippet that say how it is to be run, and what is expected.

    // pushcall: entry=main·loop go=1.22
    // pushcall broken: define=BROKEN expect=lost
    // pushcall mended: expect=preserved

Settings without a name hold for every variant; a variant's own go before them. docs/scenarios.md
lists the keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from asm.image import Position
from asm.source import AsmError, Diagnostic
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from asm.source import Source

KEYS: Final = (
    "entry", "goroutines", "procs", "go", "goos", "cpu", "budget", "stack", "define",
    "trampoline", "as-assembly", "kernel-bug", "godebug",
    "quantum", "every", "at", "at-pc", "random", "schedule", "expect",
)  # fmt: skip
NUMBERS: Final = ("goroutines", "procs", "budget", "stack", "every", "random", "as-assembly")
TIMERS: Final = ("quantum", "every", "at", "at-pc", "random", "schedule")
_LINE: Final = re.compile(r"^\s*//\s*pushcall(?:\s+([a-z][a-z0-9.-]*))?:(.*)$")

Settings = dict[str, list[str]]


@dataclass(frozen=True)
class Header:
    """Settings by key, in the order of the text; those of variants apart."""

    settings: Settings = field(default_factory=dict)
    variants: dict[str, Settings] = field(default_factory=dict)

    def of(self, variant: str | None) -> Settings:
        """The settings of a variant, or those that hold for all. UsageError: there is no such."""
        if variant is None:
            return self.settings
        if variant not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise UsageError(f"--variant {variant}: the file's variants are: {known}")
        own = self.variants[variant]
        merged = self.settings | own
        if "define" in own:
            merged["define"] = self.settings.get("define", []) + own["define"]
        if own.keys() & set(TIMERS):  # one timer at a time
            merged = {k: v for k, v in merged.items() if k not in TIMERS or k in own}
        return merged


def read(source: Source) -> Header:
    """The header of a text. Raises AsmError for a setting that there is not."""
    header = Header()
    for number, line in enumerate(source.text.splitlines(), 1):
        match = _LINE.match(line)
        if match is None:
            if line.strip() and not line.lstrip().startswith("//"):
                break
            continue
        settings = header.settings
        if match[1] is not None:
            settings = header.variants.setdefault(match[1], {})
        for word in match[2].split():
            key, value = _setting(source, number, line, word)
            settings.setdefault(key, []).append(value)
    return header


def _setting(source: Source, number: int, line: str, word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    message = None
    if not equals or key not in KEYS:
        message = f"pushcall: no setting {key}; there are: {', '.join(KEYS)}"
    elif key in NUMBERS and not re.fullmatch(r"\d+|0x[0-9a-fA-F]+", value):
        message = f"pushcall: {key} is a number, not {value or 'nothing'}"
    if message is not None:
        position = Position(source.name, number, line.index(word) + 1)
        raise AsmError((Diagnostic(position, message, line, len(word)),))
    return key, value
