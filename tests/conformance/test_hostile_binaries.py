"""A hundred thousand broken files, small ones of every format: clean errors.

Each within 2 seconds of processor time and 1 GiB of address space, which a limit holds.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime_model"))
from test_pclntab_hostile import VERSIONS, interesting, read_everything, sound

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 100_000
SECONDS = 2.0
MEMORY = 1 << 30
EXTREMES = (0, 1, 0x7F, 0x80, 0xFFFF, 0x401000, 0x440000, 0x7FFFFFFF, 0xFFFFFFFF)


def broken(chance: random.Random) -> bytes:
    version = chance.choice(VERSIONS)
    data = bytearray(sound(version))
    places = interesting(version)
    for _ in range(chance.randint(1, 6)):
        at = chance.choice(places)
        match chance.randint(0, 3):
            case 0:
                data[at] ^= 1 << chance.randint(0, 7)
            case 1:
                data[at] = chance.randint(0, 255)
            case 2:
                data[at : at + 4] = chance.choice(EXTREMES).to_bytes(4, "little")
            case 3:
                word = chance.choice((*EXTREMES, 1 << 63, (1 << 64) - 1))
                data[at : at + 8] = word.to_bytes(8, "little")
    if chance.random() < 0.1:
        del data[chance.randint(0, len(data)) :]
    return bytes(data)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Lets the process have `size` bytes more than now: MemoryError beyond."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_limit_of_memory_holds() -> None:
    with pytest.raises(MemoryError), room(MEMORY):
        bytearray(MEMORY + (1 << 20))


def test_broken_files_end_in_clean_errors_in_time_and_memory() -> None:
    chance = random.Random(7)
    errors = 0
    slowest = 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with room(MEMORY):
        for _ in range(FILES):
            data = broken(chance)
            start = time.process_time()
            errors += read_everything(data) != ""
            slowest = max(slowest, time.process_time() - start)
            assert slowest < SECONDS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(
        f"\n{FILES:,} broken files: {errors:,} refused, the others read to their end; "
        f"the slowest {slowest:.3f} s, {grown / 1024:.0f} MiB of memory more than before"
    )
    assert errors > FILES // 3
