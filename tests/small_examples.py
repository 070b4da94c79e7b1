"""Examples that are short enough to be tried at every boundary, or to be recorded whole."""

from __future__ import annotations

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = [  # of the issues, one loop and two of AVX: the others are test_scenarios' business
    *sorted(path.name for path in EXAMPLES.glob("*.s")),
    "lost/red_zone.s",
    "issues/10958_tight_loop.s",
    "issues/49233_mask_registers.s",
    "issues/81209_ymm_without_avx2.s",
]


def shortened(name: str, rounds: int) -> str:
    """An example's text, with so many rounds of its loop."""
    text = (EXAMPLES / name).read_text("utf-8")
    return re.sub(r"^#define (ROUNDS|LOOPS) \d+", rf"#define \1 {rounds}", text, flags=re.MULTILINE)
