"""The benchmarks of the emulator run; what they measure is nobody's business here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sizeless(name: str) -> str:
    """A name without its numbers, which follow the scale of a run."""
    return re.sub(r"\d[\d,.]*", "N", name)


def quoted() -> dict[str, set[str]]:
    """The groups of the README's table, and the names in each."""
    section = (ROOT / "README.md").read_text("utf-8").split("\n## Speed\n")[1].split("```")[1]
    groups = {}
    for block in section.strip().split("\n\n")[1:]:
        title, *rows = block.splitlines()
        columns = [re.split(r"\s{2,}", row.strip()) for row in rows]
        groups[title.partition("  (")[0]] = {sizeless(row[0]) for row in columns if len(row) == 3}
    return groups


def test_the_bench_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--repeats", "1", "--scale", "0.02", "--json", str(path)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench", "timers", "steps", "check", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(path.read_text("utf-8"))
    assert ran.stdout.startswith(document["machine"])
    assert document["schema"] == "pushcall.bench/1"
    table = quoted()
    assert {"timers, golang-nuts loop", "recording", "start-up"} <= table.keys()
    for group in document["groups"]:
        # The README quotes what there is to measure now, whatever the figures are.
        names = {sizeless(name) for name in group["rates"]}
        assert table.get(group["name"], names) == names
        assert all(rate["median"] > 0 for rate in group["rates"].values())
