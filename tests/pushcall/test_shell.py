"""What the shell asks for: completions as bash itself gives them, and versions."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def pushcall(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushcall", *arguments], capture_output=True, text=True, check=False
    )


def test_bash_completes_commands_options_and_versions(tmp_path: Path) -> None:
    """The script in a real bash: COMPREPLY is what bash would offer."""
    script = tmp_path / "completion.bash"
    script.write_text(pushcall("completion", "bash").stdout, "utf-8")
    command = tmp_path / "pushcall"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pushcall "$@"\n', "utf-8")
    command.chmod(0o755)
    ask = f"""
    source {script}
    complete -p pushcall
    for words in 'pushcall ch' 'pushcall check --tramp' 'pushcall run --go 1.2'; do
        COMP_WORDS=($words) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        COMPREPLY=()
        _pushcall_completion pushcall
        echo "${{COMPREPLY[@]}}"
    done
    """
    ended = subprocess.run(
        ["bash", "--norc", "-c", ask],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    complete, *offered = ended.stdout.splitlines()
    assert complete.endswith("-F _pushcall_completion pushcall")
    assert offered == [
        "check",
        "--trampoline --trampoline-syntax",
        "1.20 1.21 1.22 1.23 1.24 1.25 1.26 1.27",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_pushcall(shell: str) -> None:
    ended = pushcall("completion", shell)
    assert ended.returncode == 0
    assert f"_PUSHCALL_COMPLETE={shell}_complete" in ended.stdout


def test_the_version_names_the_engines() -> None:
    ended = pushcall("--version")
    assert ended.returncode == 0
    for name in ("pushcall", "unicorn", "capstone", "keystone-engine"):
        assert f"{name} {metadata.version(name)}" in ended.stdout


def test_an_unknown_shell_is_a_usage_error() -> None:
    ended = pushcall("completion", "csh")
    assert ended.returncode == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in ended.stderr
