"""The benchmarks of the emulator run; what they measure is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_bench_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--repeats", "1", "--scale", "0.02", "--json", str(path)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench", "timers", "steps", "check", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(path.read_text("utf-8"))
    assert document["schema"] == "pushcall.bench/1"
    for group in document["groups"]:
        assert group["name"] in ran.stdout
        assert all(rate["median"] > 0 for rate in group["rates"].values())
