"""Contenders in groups, timed in turn; the median of each and its ratio to the group's first.

Times are processor time, of which other work on the machine takes less away; that of processes
which a contender starts is counted in.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


MANY: Final = 1000  # a second: told as a rate, fewer as the time that one takes


@dataclass
class Contender:
    """`run` does the work once and returns how much it was, in the group's unit.

    `most` is the time that is wanted for one unit, in seconds.
    """

    name: str
    run: Callable[[], float]
    most: float | None = None
    rates: list[float] = field(default_factory=list)  # per second

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)


class Command(Contender):
    """A command line, run once; `memory` is its peak, in MiB, wanted to be at most `room`.

    It is an upper bound: Linux counts what the process was before its execve, this one's copy.
    """

    def __init__(
        self,
        name: str,
        most: float | None = None,
        arguments: Sequence[str] = (),
        room: float | None = None,
    ) -> None:
        super().__init__(name, self._run, most)
        self.arguments = arguments
        self.room = room
        self.memory = 0.0

    def _run(self) -> float:
        process = subprocess.Popen(self.arguments, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{self.name} ended with {process.returncode}"
        self.memory = max(self.memory, usage.ru_maxrss / 1024)
        return 1


def processor_time() -> float:
    """Seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


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
                start = processor_time()
                done = contender.run()
                rate = done / (processor_time() - start)
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
        for contender in group.contenders:
            lines += _limits(contender)
        lines += [
            f"  {one} / {other}: {ratio:.2f}, wanted {least}{'' if ratio >= least else '  MISSED'}"
            for one, other, ratio, least in group.ratios()
        ]
    return "\n".join(lines).lstrip("\n")


def _limits(contender: Contender) -> list[str]:
    """What was measured of it and is limited, in words."""
    name, rate, most = contender.name, contender.rate, contender.most
    lines = []
    if most is not None and rate >= MANY:
        missed = "" if rate >= 1 / most else "  MISSED"
        lines.append(f"  {name}: {number(rate)} a second, wanted {number(1 / most)}{missed}")
    elif most is not None or isinstance(contender, Command):
        lines.append(f"  {name}: {_limited(1 / rate, 's', most)}")
    if isinstance(contender, Command) and contender.room is not None:
        lines.append(f"  {name}: {_limited(contender.memory, 'MiB', contender.room)}")
    return lines


def _limited(value: float, unit: str, most: float | None) -> str:
    text = f"{value:.3g} {unit}"
    if most is None:
        return text
    return f"{text}, wanted {most:g}{'' if value <= most else '  MISSED'}"


def number(rate: float) -> str:
    """A rate in few digits."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= scale:
            return f"{rate / scale:.3g} {unit}"
    return f"{rate:.3g}"


def machine() -> str:
    """What it ran on: processor, cores, Python, Unicorn."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(names, platform.processor() or "unknown processor")
    return (
        f"{cpu}, {os.cpu_count()} cores, {platform.machine()} {platform.system()}, "
        f"Python {platform.python_version()}, Unicorn {metadata.version('unicorn')}"
    )


def document(groups: list[Group]) -> dict[str, object]:
    """The results as JSON has them."""
    return {
        "schema": "pushcall.bench/1",
        "machine": machine(),
        "groups": [
            {
                "name": group.name,
                "unit": group.unit,
                "rates": {c.name: {"median": c.rate, "all": c.rates} for c in group.contenders},
                "memory": {c.name: c.memory for c in group.contenders if isinstance(c, Command)},
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
