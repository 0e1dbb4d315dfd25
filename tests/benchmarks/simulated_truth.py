"""Whether known truths are found again, over many ways to draw a cell, and how fast fits are.

python tests/benchmarks/simulated_truth.py --cells 300          # a table, one row per variant
python tests/benchmarks/simulated_truth.py --floor              # the errors that must remain
python tests/benchmarks/simulated_truth.py --speed              # 1 000 cells x 10 seeds x 20
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.analysis.population import (
    KINDS,
    VARIANTS,
    Score,
    Truth,
    Variant,
    draw_cell,
    floor,
    score,
)

from ldru_study.analysis.cases import CASE_SETTINGS
from ldru_study.analysis.cell import CellVerdict, judge_cells
from ldru_study.analysis.consensus import judge_jointly
from ldru_study.analysis.counts import CellCurves

SPEED = Variant(grids=(tuple(np.geomspace(0.5, 64, 20)),), num_seeds=(10, 10))


def draw(name: str, cells: int, seed: int) -> list[Truth]:
    """Draw as many cells of a variant."""
    rng = np.random.default_rng([seed, list(VARIANTS).index(name)])
    return [draw_cell(rng, VARIANTS[name], KINDS[n % 3]) for n in range(cells)]


def variant_floor(name: str, cells: int, seed: int) -> tuple[str, tuple[float, float]]:
    """Draw as many cells of a variant and estimate all that is not given away."""
    return name, floor(draw(name, cells, seed))


def variant_score(name: str, cells: int, seed: int) -> tuple[str, Score]:
    """Draw as many cells of a variant and judge them."""
    truths = draw(name, cells, seed)
    return name, score(truths, judge_jointly([t.curves for t in truths], CASE_SETTINGS, levels=()))


def judge_part(part: tuple[int, int]) -> list[CellVerdict]:
    """Judge ``part[1]`` cells drawn from the seed ``part[0]``: per seed, pooled and jointly."""
    rng = np.random.default_rng(part[0])
    drawn = [draw_cell(rng, SPEED, KINDS[n % 3]).curves for n in range(part[1])]
    return judge_cells([CellCurves("parity_check", "model", "cell", c, {}, {}) for c in drawn])


@click.command()
@click.option("--cells", default=300, show_default=True, help="Cells of each variant.")
@click.option("--seed", default=1, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option(
    "--floor", "only_floor", is_flag=True, help="Errors with all but the thresholds known instead."
)
@click.option("--speed", is_flag=True, help="Time 1 000 cells instead.")
def main(cells: int, seed: int, processes: int, only_floor: bool, speed: bool) -> None:
    """Print one row per variant, or the seconds that 1 000 cells take."""
    names = list(VARIANTS)
    with ProcessPoolExecutor(processes) as pool:
        if speed:
            begun = time.monotonic()
            verdicts = [
                v for part in pool.map(judge_part, [(n, 50) for n in range(20)]) for v in part
            ]
            wall = time.monotonic() - begun
            click.echo(
                f"{len(verdicts)} cells x 10 seeds x 20 lengths: {wall:.1f} s, drawing included"
            )
            return
        if only_floor:
            # of another form or with another noise, what is known would be wrong
            known = [
                n for n in names if (VARIANTS[n].form, VARIANTS[n].noise) == ("weibull", "beta")
            ]
            click.echo("| variant | error, population | error, seeds |\n" + "| --- " * 3 + "|")
            count = len(known)
            for name, (population, seeds) in pool.map(
                variant_floor, known, [cells] * count, [seed] * count
            ):
                click.echo(f"| {name} | {population:.3f} | {seeds:.3f} |")
            return
        click.echo(
            "| variant | cells | error, population | error, seeds | covered, population | "
            "covered, seeds | width | class right | false numbers | no value |\n"
            + "| --- " * 10
            + "|"
        )
        for name, found in pool.map(
            variant_score, names, [cells] * len(names), [seed] * len(names)
        ):
            click.echo(
                f"| {name} | {found.num_cells} | {found.error:.3f} | {found.error_of_seeds:.3f} | "
                f"{found.covered:.3f} | {found.covered_of_seeds:.3f} | {found.width:.3f} | "
                f"{found.right:.3f} | {found.false_numbers} | {found.without_value} |"
            )


if __name__ == "__main__":
    main()
