"""A Go program that tries to get out of the sandbox gets errors, and the host shows no trace of it.

    pytest -s tests/conformance/test_escape.py

The attempts are in programs/escape. The witnesses are the host's own: a file that must stay as it
is, a directory that must have nothing new, a socket that nobody may connect to, a process that must
live on, and an audit hook (PEP 578) that hears what Python does while the guest runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from toolchains import CACHE, build, versions

PROGRAM = Path(__file__).parent / "programs/escape"
TESTED = [version for version in versions() if version.startswith(("1.19", "1.22", "1.27"))]

# Runs the command line with a hook that writes down what reaches the host while a machine runs.
WATCHED = """
import json, sys
from emulator.disassembly import disassemble
from emulator.machine import Machine
disassemble(b"\\x90", 0)  # imports what it needs
heard, on = [], False
outside = ("open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.")
def hear(event, arguments):
    if on and event.startswith(outside):
        heard.append(f"{event} {arguments}")
sys.addaudithook(hear)
run = Machine.run
def watched(self):
    global on
    on = True
    try:
        return run(self)
    finally:
        on = False
Machine.run = watched
from pushcall.cli.main import main
report = sys.argv.pop(1)
sys.argv[0] = "pushcall"
try:
    main()
finally:
    with open(report, "w") as file:
        json.dump(heard, file)
"""


def escape(version: str) -> Path:
    digest = hashlib.sha256((PROGRAM / "main.go").read_bytes()).hexdigest()[:6]
    return build(version, PROGRAM, CACHE / "booted" / f"escape-{version}-{digest}", "-trimpath")


def watched(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    report = tmp_path / "heard"
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, str(report), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PUSHCALL_SECRET": "of the host"},
    )
    heard = json.loads(report.read_text())
    report.unlink()
    return ended, heard


@pytest.mark.parametrize("version", TESTED)
def test_every_attempt_is_an_error_and_the_host_shows_no_trace(
    version: str, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_text("mine")
    before = own.stat()
    given = tmp_path / "given"
    given.write_text("a gift")
    program = escape(version)
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    port = server.getsockname()[1]
    witness = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        ended, heard = watched(
            tmp_path, "run", "--json", "--enosys", "--file", f"/given={given}", str(program), "--",
            str(own), f"127.0.0.1:{port}", str(witness.pid),
        )  # fmt: skip
        assert witness.poll() is None
        with pytest.raises(BlockingIOError):
            server.accept()
    finally:
        witness.kill()
        witness.communicate()
        server.close()
    assert heard == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "own"]
    assert own.stat() == before  # not even read
    assert own.read_text() == "mine"
    document = json.loads(ended.stdout)
    assert document["exit"] == {"status": 0, "how": "exit"}, ended.stderr
    lines = document["stdout"].splitlines()
    assert lines[-1] == "done"
    assert not [line for line in lines if "SUCCEEDED" in line or line.startswith("descriptor")]
    assert lines[:8] == [
        "host pushcall <nil>",
        "ids 1000 1000 1000 0",
        "environment []",
        f"arguments [{own} 127.0.0.1:{port} {witness.pid}]",
        "processors 4",
        "year 2026",
        "directory / <nil>",
        "input  <nil>",
    ]
    assert "given: a gift <nil>" in lines
    listed = [line for line in lines if line.startswith("list") and "listen" not in line]
    assert listed == ["list <nil>", "listed dev true", "listed given false"]
    for attempt in ("create", "mkdir", "symlink", "given"):
        assert f"{attempt} read-only file system" in lines
    for attempt in ("read passwd", "read own", "stat", "remove", "rename", "chdir", "readlink"):
        assert f"{attempt} no such file or directory" in lines
    for attempt in ("kill parent", "kill init", "kill all"):
        assert f"{attempt} no such process" in lines
    for attempt in ("tcp", "udp", "listen", "command", "exec", "fork", "ptrace attach", "bpf"):
        assert f"{attempt} function not implemented" in lines
    for attempt in ("mmap of 64 TiB", "mmap of 64 GiB"):
        assert f"{attempt} cannot allocate memory" in lines
    told = " ".join(document["missing"])
    for call in ("41 (socket)", "59 (execve)", "57 (fork)", "101 (ptrace)"):
        assert f"system call {call} at 0x" in told
    print(f"{version}: {len(lines)} attempts")


@pytest.mark.parametrize("version", TESTED)
def test_without_enosys_the_first_of_them_ends_the_run(version: str, tmp_path: Path) -> None:
    ended, heard = watched(
        tmp_path, "run", "--json", str(escape(version)), "--", "own", "127.0.0.1:9", "1"
    )
    assert heard == []
    assert ended.returncode == 1
    how = json.loads(ended.stdout)["exit"]["how"]
    assert how.startswith("system call 41 (socket) at 0x")
    assert "is not modelled" in how


@pytest.mark.parametrize("version", TESTED[-1:])
@pytest.mark.parametrize(
    ("what", "status", "told"),
    [
        ("output", 1, "more than 268435456 bytes of output"),
        ("memory", 1, "out of memory"),
    ],
)
def test_what_has_no_end_comes_to_a_limit(
    version: str, what: str, status: int, told: str, tmp_path: Path
) -> None:
    ended, heard = watched(tmp_path, "run", str(escape(version)), "--", what)
    assert heard == []
    assert ended.returncode == status
    assert told in ended.stderr
    assert sorted(tmp_path.iterdir()) == []
