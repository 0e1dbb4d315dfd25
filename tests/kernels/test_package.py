"""`pip install ./kernels` gives a package of its own: no compiler, no GPU, no platform."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
SCRIPT = """
import re, sys, pathlib
import ldru_kernels
from ldru_kernels.choice import _measured
assert pathlib.Path(ldru_kernels.__file__).is_relative_to(sys.argv[1])
assert isinstance(_measured(), list)
exec(re.search(r"```python\\n(.*?)```", pathlib.Path(sys.argv[2]).read_text(), re.DOTALL)[1])
assert not {"ldru_study", "ldru_kernels.triton_path"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", *command, str(KERNELS)], check=True, capture_output=True)
    (found,) = folder.iterdir()
    return found


def test_nothing_in_it_is_compiled(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist()}
        (about,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(about).decode().splitlines()
    assert {"py.typed", "measured.json"} <= names
    needs = [line for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert [line.split()[1].split(">")[0] for line in needs] == ["numpy", "torch"]


def test_it_runs_without_a_compiler_and_without_the_platform(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = str(tmp_path / "site")
    environment = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, site, str(KERNELS / "README.md")],
        env=environment | {"PYTHONPATH": site, "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(3, 8)\n"
