"""The benchmark of long steps: a row per contender, and what follows from rows."""

from __future__ import annotations

import pytest

from ldru_kernels import bench_long


@pytest.mark.parametrize("contender", ["chunks", "chunks, dropout", "eager"])
def test_a_contender_has_a_row(contender):
    row = bench_long._row(contender, 5000, 1)
    assert row["contender"] == contender
    assert row["seconds"] > 0
    assert row["cpu_seconds"] > 0
    assert "5000" in bench_long._line(row)


def test_what_follows_from_rows():
    longest, split = bench_long._LONGEST_EAGER, bench_long._OF_WORKERS[-1]
    rows = [
        {"contender": name, "tokens": tokens, "cpu_seconds": tokens / 1000, "peak_mib": 7.0}
        for name in ("chunks", "chunks, dropout")
        for tokens in (longest // 2, longest)
    ]
    rows.append({"contender": "eager", "tokens": longest, "cpu_seconds": longest / 500})
    rows += [
        {
            "contender": "workers",
            "tokens": split,
            "workers": workers,
            "seconds": 3.0 / workers,
            "cpu_seconds": 3.0,
            "bytes": 100,
        }
        for workers in (1, 2)
    ]
    found = bench_long.conclude(rows)
    assert found["chunks: exponent of time in T"] == pytest.approx(1)
    assert found[f"chunks: MiB at T = {longest}"] == 7
    assert found[f"chunks, dropout: times eager at T = {longest}"] == pytest.approx(0.5)
    assert found[f"two workers: times one at T = {split}, seconds"] == pytest.approx(0.5)
    assert found[f"two workers: bytes of each at T = {split}"] == 100
