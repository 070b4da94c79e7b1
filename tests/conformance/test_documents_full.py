"""All sessions of README.md and docs/, those that need a toolchain or minutes among them; pictures.

The toolchain is the newest of those that conformance tests install.
"""

from __future__ import annotations

import html
import re
import shlex
import shutil
from typing import TYPE_CHECKING

import click
import pytest
from documents import DOCUMENTS, ROOT, Session
from toolchains import CACHE, VERSIONS, goroot

from pushcall.cli.main import cli
from pushcall.mkdrawings import DRAWINGS

if TYPE_CHECKING:
    from pathlib import Path

NEWEST = VERSIONS[-1]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A directory, and Go in the way of commands."""
    made = Session(tmp_path, path=f"{goroot(NEWEST) / 'bin'}:")
    made.environment |= {
        "GOROOT": str(goroot(NEWEST)),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
        "CGO_ENABLED": "0",
        "GOCACHE": str(CACHE / "go-build" / NEWEST),
    }
    return made


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_session_prints_what_the_document_shows(path: Path, session: Session) -> None:
    faults = list(session.play(path, long=True))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", sorted(set(cli.commands) - {"mutants"}))
def test_the_examples_of_each_commands_help_run(name: str, session: Session) -> None:
    """`mutants` is in its page with the same options; there it is run once."""
    assert session.run("go build -trimpath -o server examples/server.go")[0] == 0
    assert session.run("cp server server.old")[0] == 0
    shutil.copy(ROOT / "asm/go/preempt_stack_amd64.s", session.directory / "my_asyncPreempt.s")
    command = cli.commands[name]
    shown = command.get_help(click.Context(command, info_name=name))
    examples = re.findall(rf"^  (pushcall {name} .*)$", shown, re.MULTILINE)
    for example in examples:
        if name == "trace" and "--plain" not in example and "--html" not in example:
            continue  # test_viewer_terminal opens the viewer
        words = shlex.split(example.partition(" && objdump")[0], comments=True)
        status, printed = session.run(" ".join(words) if "$(" not in example else example)
        assert status in (0, 1), f"$ {example}\n{printed}"


def words(drawing: str) -> list[str]:
    """The text of an SVG; how it is set is the business of what set it."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", drawing, re.DOTALL)
    return [html.unescape(each).replace("\xa0", " ").rstrip() for each in found]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_shows_what_there_is_now(name: str) -> None:
    """`make docs` draws it again."""
    shown = words((ROOT / "docs" / name).read_text("utf-8"))
    assert len(shown) > 9
    assert shown == words(DRAWINGS[name]())
