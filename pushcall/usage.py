"""What a user gave that cannot be: every command tells it the same way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime_model.version import GoVersion


class UsageError(Exception):
    """Bad input that is not in the assembly text: one message, exit status 2."""


def refusals() -> tuple[type[Exception], ...]:
    """What bad input is refused with, but for AsmError, which has positions."""
    from emulator.fault import NotModelled  # engines: only where something went wrong
    from emulator.host_cpuid import NativeUnavailableError
    from runtime_model.boot import BadProgramError
    from runtime_model.toolchain import ToolchainError

    return UsageError, BadProgramError, ToolchainError, NativeUnavailableError, NotModelled


def go_version(text: str | None) -> GoVersion | None:
    """The version that `--go` names, as 1.22 or 1.22.10; None if it is not given."""
    from runtime_model.layout import parse_version  # not before a command needs it
    from runtime_model.version import GoVersion

    if text is None:
        return None
    try:
        number = parse_version(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    patch = re.search(r"\d+\.\d+\.(\d+)", text)
    return GoVersion(*number, int(patch[1]) if patch else None)


def parse_duration(text: str) -> int:
    """Nanoseconds in "10ms", "20us", "1.5s", "500ns"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s)", text)
    if match is None:
        raise UsageError(f"{text}: not a duration such as 10ms, 20us or 1s")
    scale = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}[match[2]]
    nanoseconds = round(float(match[1]) * scale)
    if nanoseconds == 0:
        raise UsageError(f"{text}: the quantum must be longer than nothing")
    return nanoseconds


def parse_size(text: str) -> int:
    """Bytes in "2048", "64KiB", "1MiB", "1GB": multiples of 1024 with an i, else of 1000."""
    match = re.fullmatch(r"(\d+)(?:([KMG])(i?)B)?", text)
    if match is None:
        raise UsageError(f"{text}: not a size such as 2048, 64KiB or 1GB")
    base = 1024 if match[3] else 1000
    scale: int = base ** (" KMG".index(match[2]) if match[2] else 0)
    return int(match[1]) * scale
