"""The kernels compiled for a GPU that need not be there: they build, and fit one multiprocessor."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# in a process of its own, where Triton compiles and does not interpret
SCRIPT = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ldru_kernels import triton_kernels as kernels
from ldru_kernels.launches import tiles_for

POINTERS = {
    "edges": "*fp32", "partial": "*fp32", "seed": "*i64", "tiles": "*i64", "children": "*i32",
    "readers": "*i32", "reader_starts": "*i32", "bounds": "*i32", "numbers": "*i32",
}
SCALARS = {"threshold": "i64", "keep": "fp32"}

def build(kernel, element, states, constants, tile):
    known = POINTERS | SCALARS | {"states": states, "folded": element, "tape": element}
    known |= {name: "constexpr" for name in constants}
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: known.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    options = {"num_warps": tile.warps, "num_stages": 1}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return {"shared": built.metadata.shared, "ptx": built.asm["ptx"]}

found = []
for width, operands, element in json.loads(sys.argv[1]):
    wide = triton.next_power_of_2(width)
    tiles = tiles_for(wide, operands)
    precision = "tf32" if operands == "tf32" else "ieee"
    constants = {"E": width, "WIDE": wide, "PRECISION": precision, "GROUPED": True}
    constants |= {"DROPS": True, "NUMBERED": True}
    for kernel, tile in (
        (kernels.forward_kernel, tiles.forward[-1]), (kernels.backward_kernel, tiles.backward[-1])
    ):
        sizes = {"ROWS": tile.rows, "BLOCK": tile.block}
        found.append(build(kernel, element, "*fp32", constants | sizes, tile))
    sizes = {"E": width, "SIDE": wide, "ROWS": tiles.sums.rows, "PRECISION": precision}
    found.append(build(kernels.weight_gradients, element, element, sizes, tiles.sums))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper_and_fit():
    cases = [(64, "bf16", "*bf16"), (32, "fp16", "*fp16"), (48, "tf32", "*fp32")]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    built = json.loads(done.stdout)
    assert len(built) == 3 * len(cases)
    for kernel in built:
        assert kernel["shared"] <= 227 * 1024
        # matrix units, and no path around the cache that would miss a program's own writes
        assert "mma" in kernel["ptx"]
        assert "ld.global.nc" not in kernel["ptx"]
        # nothing is added atomically
        assert "atom." not in kernel["ptx"]
        assert "red.global" not in kernel["ptx"]
