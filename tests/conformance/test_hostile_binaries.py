"""A hundred thousand broken files, small ones of every format: clean errors, each in its time."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime_model"))
from test_pclntab_hostile import VERSIONS, interesting, read_everything, sound

FILES = 100_000
SECONDS = 2.0
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


def test_broken_files_end_in_clean_errors_in_time() -> None:
    chance = random.Random(7)
    errors = 0
    for _ in range(FILES):
        data = broken(chance)
        start = time.process_time()
        errors += read_everything(data) != ""
        assert time.process_time() - start < SECONDS
    print(f"\n{FILES:,} broken files: {errors:,} refused, the others read to their end")
    assert errors > FILES // 3
