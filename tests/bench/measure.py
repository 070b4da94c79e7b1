"""Contenders in groups, timed in turn; the median of each and its ratio to the group's first.

Times are processor time, of which other work on the machine takes less away.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Contender:
    """`run` does the work once and returns how much it was, in the group's unit."""

    name: str
    run: Callable[[], float]
    rates: list[float] = field(default_factory=list)  # per second

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)


@dataclass
class Group:
    """What is compared. `wanted` are the least ratios to other contenders: (one, other, ratio)."""

    name: str
    unit: str
    contenders: list[Contender]
    wanted: list[tuple[str, str, float]] = field(default_factory=list)

    def measure(self, repeats: int) -> None:
        """Runs all contenders in turn, so many times, after a round that does not count."""
        for turn in range(repeats + 1):
            for contender in self.contenders:
                start = time.process_time()
                done = contender.run()
                rate = done / (time.process_time() - start)
                if turn:
                    contender.rates.append(rate)

    def ratios(self) -> list[tuple[str, str, float, float]]:
        """(one, other, median of the ratios within a round, the least that is wanted)."""
        rates = {contender.name: contender.rates for contender in self.contenders}
        return [
            (
                one,
                other,
                statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True)),
                least,
            )
            for one, other, least in self.wanted
        ]


def table(groups: list[Group]) -> str:
    """The results as text."""
    lines = []
    for group in groups:
        first = group.contenders[0].rate
        lines += ["", f"{group.name}  ({group.unit} per second)"]
        lines += [
            f"  {contender.name:<44} {number(contender.rate):>10} {contender.rate / first:>8.2f}"
            for contender in group.contenders
        ]
        lines += [
            f"  {one} / {other}: {ratio:.2f}, wanted {least}{'' if ratio >= least else '  MISSED'}"
            for one, other, ratio, least in group.ratios()
        ]
    return "\n".join(lines).lstrip("\n")


def number(rate: float) -> str:
    """A rate in few digits."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= scale:
            return f"{rate / scale:.3g} {unit}"
    return f"{rate:.3g}"


def document(groups: list[Group]) -> dict[str, object]:
    """The results as JSON has them."""
    return {
        "schema": "pushcall.bench/1",
        "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}",
        "groups": [
            {
                "name": group.name,
                "unit": group.unit,
                "rates": {c.name: {"median": c.rate, "all": c.rates} for c in group.contenders},
                "ratios": [
                    {"of": one, "to": other, "ratio": ratio, "wanted": least}
                    for one, other, ratio, least in group.ratios()
                ],
            }
            for group in groups
        ],
    }


def write(groups: list[Group], path: Path) -> None:
    """Writes the JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(groups), indent=1) + "\n", "utf-8")
