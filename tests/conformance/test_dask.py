"""A Dask cluster, of processes and of threads, finds what one process finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from distributed import LocalCluster

from pushcall.api import program
from pushcall.check import exhaustive as checking
from pushcall.check.pool import cluster

NUTS = Path(__file__).parents[2] / "examples" / "golang_nuts.s"


@pytest.mark.parametrize(("processes", "workers", "threads"), [(True, 2, 1), (False, 1, 2)])
def test_a_cluster_finds_what_one_process_finds(
    processes: bool, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "PART", 700)
    monkeypatch.setattr(checking, "DIRECT_PART", 16)
    config = program(NUTS, defines={"LOOPS": 300}).config
    alone = checking.check(config).to_json()
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=processes,
            dashboard_address=None,
        ) as local,
        cluster(local.scheduler_address, config) as pool,
    ):
        assert checking.check(config, pool=pool).to_json() == alone


def test_no_cluster_is_one_message() -> None:
    command = [sys.executable, "-m", "pushcall", "check", str(NUTS), "--dask", "tcp://127.0.0.1:1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("pushcall: --dask tcp://127.0.0.1:1: ")
    assert ran.stderr.count("\n") == 1
