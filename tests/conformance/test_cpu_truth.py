"""2,000,000 random instructions, on the engine and on the real processor, compared step by step.

Those of AVX and AVX-512 that emulator.avx does are among them where the host has them; the forms
that it lacks are printed.
Undefined flags are masked by the manual's table (instruction_forms.undefined_flags), and what
emulator.fence lists as not modelled. PUSHCALL_TRUTH_STEPS changes the number, PUSHCALL_TRUTH_SEED
the seed.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from native_host import native_objection

sys.path.insert(0, str(Path(__file__).parents[1] / "emulator"))

from cpu_differential import Differential

STEPS = int(os.environ.get("PUSHCALL_TRUTH_STEPS", "2000000"))
SEED = int(os.environ.get("PUSHCALL_TRUTH_SEED", "1"))
SHARD = 50_000


def shard(seed: int, steps: int) -> tuple[int, list[str], Counter[str], list[str]]:
    """Steps, differences, refused mnemonics and forms that the host lacks, of one seed."""
    differential = Differential(seed)
    try:
        differential.run(steps)
    finally:
        differential.close()
        gc.collect()  # an engine holds up to a gigabyte of translated code, and itself
    differences = list(map(str, differential.differences))
    return differential.steps, differences, differential.refused, differential.missing


def test_every_instruction_does_what_the_processor_does() -> None:
    if why := native_objection():
        pytest.skip(why)
    seeds = range(SEED, SEED + -(-STEPS // SHARD))
    total, refused, missing = 0, Counter[str](), list[str]()
    with ProcessPoolExecutor(2) as pool:
        for seed, result in zip(seeds, pool.map(shard, seeds, [SHARD] * len(seeds)), strict=True):
            steps, differences, named, missing = result
            print(f"seed {seed}: {steps} instructions", flush=True)
            assert not differences, f"seed {seed}:\n" + "\n".join(differences)
            total += steps
            refused += named
    print(f"{total} instructions, seeds {seeds.start} to {seeds.stop - 1}, no difference")
    print("refused:", *sorted(refused))
    print("not of this host:", *missing)
    assert total >= STEPS
