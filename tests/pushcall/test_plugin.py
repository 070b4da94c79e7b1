"""The pytest plugin in a project outside the repository, from the installed wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asm.mkpreempt import stack_text
from pushcall.pytest_plugin import Checker

ROOT = Path(__file__).parents[2]

LOOP = """\
#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$0x1122334455667788, R9
	ADDQ	$1, R9
	RET
"""

PROJECT = """\
def test_trampoline(pushcall):
    pushcall.check("loop.s", trampoline="trampoline.s", go="1.22")


def test_run(pushcall):
    pushcall.run("loop.s", trampoline="trampoline.s", every=1, expect=["R9:0x1122334455667789"])


def test_origin():
    import pushcall
    assert pushcall.__file__.startswith({site!r}), pushcall.__file__
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and nothing else of ours."""
    directory = tmp_path_factory.mktemp("wheel")
    sources = directory / "sources"  # a build leaves its own traces where it happens
    for name in ("asm", "emulator", "runtime_model", "pushcall"):
        shutil.copytree(ROOT / name, sources / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", directory, sources], check=True)
    (wheel,) = directory.glob("pushcall-*.whl")
    target = directory / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def test_the_wheel_has_the_page_of_trace(site: Path) -> None:
    assert "/*DATA*/null" in (site / "pushcall" / "trace" / "page.html").read_text("utf-8")


@pytest.fixture
def project(tmp_path: Path, site: Path) -> Path:
    (tmp_path / "loop.s").write_text(LOOP, "utf-8")
    (tmp_path / "trampoline.s").write_text(stack_text(), "utf-8")
    (tmp_path / "test_preemption.py").write_text(PROJECT.format(site=str(site)), "utf-8")
    return tmp_path


def pytest_there(project: Path, site: Path, *options: str) -> tuple[int, str]:
    """Runs pytest in the project: PYTHONPATH comes before an editable installation's finder."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_good_trampoline_passes(project: Path, site: Path) -> None:
    status, output = pytest_there(project, site)
    assert status == 0, output
    assert "3 passed" in output


def test_a_broken_trampoline_fails_with_register_boundary_and_values(
    project: Path, site: Path
) -> None:
    good = stack_text()
    (project / "trampoline.s").write_text(good.replace("\tMOVQ 56(SP), R9\n", ""), "utf-8")
    assert "MOVQ 56(SP), R9" in good
    status, output = pytest_there(project, site, "-k", "trampoline")
    assert status == 1
    # Between save and restore a register holds the complement of its value.
    lost = "R9 lost at 3 boundaries; first at boundary 0, 0x480000 main.main"
    assert lost in output
    assert "MOVQ $0x1122334455667788, R9: was " in output
    head, shown, following = output.partition("around boundary 0, 0x480000 main.main")[
        2
    ].splitlines()[:3]
    assert head.endswith("loop.s:4:2:")
    assert shown.split() == [">", "0x480000", "MOVQ", "$0x1122334455667788,", "R9"]
    assert following.split() == ["0x48000a", "ADDQ", "$1,", "R9"]
    was = int(output.split("R9: was ")[1].split(",")[0], 16)
    now = int(output.split("R9: was ")[1].split(" is ")[1].split()[0], 16)
    assert was ^ now == 2**64 - 1
    status, output = pytest_there(project, site, "-k", "run")
    assert status == 1
    assert "R9" in output


def test_an_unused_plugin_imports_no_engine(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test_engines.py").write_text(
        "import sys\n"
        "def test_engines():\n"
        "    loaded = {'unicorn', 'keystone', 'capstone', 'emulator', 'asm'} & sys.modules.keys()\n"
        "    assert not loaded\n",
        "utf-8",
    )
    status, output = pytest_there(tmp_path, site)
    assert status == 0, output


def test_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no option trampolin;"):
        Checker(tmp_path).check(LOOP, trampolin=stack_text())
