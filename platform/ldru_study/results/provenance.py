"""Where results came from: the code's revision and its changes, versions and hardware."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("ldru-study", "torch", "ray", "numpy", "pyarrow", "scipy", "deepspeed", "optuna")
_HERE = Path(__file__).parent


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """Return what a reader needs to make the same results again, as JSON values.

    Args:
        command: the arguments that started the submission.
    """
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "revision": revision(),
        "diff": _git("diff", "HEAD") or "",
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": {
            "host": socket.gethostname(),
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_name(),
            "cpus": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
    }


def revision() -> str:
    """Return the git revision of the code that runs, with ``+changes`` when it was edited."""
    found = _git("rev-parse", "HEAD")
    if found is None:
        return f"ldru-study {importlib.metadata.version('ldru-study')}, not from git"
    return found + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_HERE), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        # no git, or the package was installed from a wheel
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
