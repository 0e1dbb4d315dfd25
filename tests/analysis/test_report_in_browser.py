"""The page in a real browser: it draws, answers clicks, loads nothing and runs no text."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tests.analysis.simulate import curve, numbered
from tests.analysis.test_report import HOSTILE, SUBMISSION, extras

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import StudyCounts
from ldru_study.analysis.counts import CellCurves
from ldru_study.analysis.report import Origin, render_report, write_report
from ldru_study.analysis.series import scale_varying
from ldru_study.analysis.verdict import VerdictSettings
from ldru_study.errors import SpecError
from ldru_study.execution.submit import new_record, prepare
from ldru_study.results.store import Store
from ldru_study.spec.model import LstmConfig
from ldru_study.spec.study import parse_study

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")
LABELS = ("ldru(mlp)", "lstm", HOSTILE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    cells = [
        CellCurves(
            task,
            label,
            f"{task}/{label}" if size == 20 else f"{task}/{label}/{size}",
            numbered(*(curve(rng, half=half, beta=6) for _ in range(2))),
            {"model.width": str(size)},
            config={
                "model": {"kind": label, "width": size},
                "task": task,
                "train": {"max_length": 20},
            },
        )
        for task in ("parity_check", "tomita_5")
        for label, half in zip(LABELS, (None, 4, 9), strict=True)
        for size in (20, 40)
    ]
    study = StudyCounts("page", HOSTILE, tuple(cells), VerdictSettings(), {"done": 24}, (), ())
    origin = Origin(HOSTILE, [SUBMISSION], "2026-01-01 00:00 UTC")
    found = tmp_path_factory.mktemp("page") / "report.html"
    verdicts = judge_cells(cells)
    more = dataclasses.replace(extras(), scaling=scale_varying(verdicts))
    found.write_text(render_report(study, verdicts, origin, more), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        yield found
        found.close()


@pytest.fixture
def page(browser, path):
    """Return the open page; at the end nothing was asked for and nothing went wrong."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(60_000)
    troubles, requests = [], []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(path.as_uri())
    see(opened, "curves")
    yield opened
    opened.close()
    assert troubles == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def see(page, chart):
    """Bring a chart into view and wait until it is drawn."""
    page.locator(f"#{chart}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{chart} .main-svg", state="attached")


def drawn(page, chart, kind):
    """Return the models whose traces of this kind are in a chart."""
    traces = page.evaluate(
        "id => document.getElementById(id).data.map(t => [t.meta.kind, t.name])", chart
    )
    return [name for one, name in traces if one == kind]


def models(page):
    return [button.inner_text() for button in page.query_selector_all("#legend button")]


def test_every_chart_is_drawn_when_it_comes_into_view(page):
    assert page.query_selector("#training .main-svg") is None
    for chart in ("strip", "scaling", "search", "training"):
        see(page, chart)
        lines = page.evaluate(f"document.querySelectorAll('#{chart} .trace').length")
        assert lines > 0, chart


def test_hiding_a_model_hides_its_curves(page):
    names = models(page)
    assert len(names) == 6
    assert drawn(page, "curves", "seeds") == drawn(page, "curves", "fit") == names
    button = page.locator("#legend button").nth(1)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    left = [name for name in names if name != names[1]]
    assert drawn(page, "curves", "seeds") == drawn(page, "curves", "fit") == left
    # and not only from the data: a line per model, one for chance
    assert page.locator("#curves .scatterlayer .trace").count() == 2 * len(left) + 1
    button.click()
    assert drawn(page, "curves", "seeds") == names


def test_a_verdict_leads_to_its_curve(page):
    square = page.locator(".heat a").nth(7)
    title = square.get_attribute("title")
    square.click()
    label = page.evaluate("data.series[data.cells[state.cell].series].label")
    assert title.startswith(f"{label} on tomita_5: ")
    assert drawn(page, "curves", "seeds") == drawn(page, "curves", "fit") == [label]
    assert page.locator("#task").evaluate("select => select.selectedOptions[0].text") == "tomita_5"
    assert square.get_attribute("aria-current") is not None
    assert page.locator("#failure-curves").evaluate("e => e.getBoundingClientRect().top") < 450
    detail = page.locator("#detail").inner_text()
    sentence, _, claims = title.partition("; near-perfect ")
    assert sentence in detail
    assert claims == "at 2x: undecided; at 3x: refuted"
    assert "Near-perfect (at least 99 % right) at 2x: undecided; each seed alone: " in detail
    assert (
        "Near-perfect (at least 99 % right) at 3x: refuted; each seed alone: 2 refuted." in detail
    )
    page.locator("#all-models").click()
    assert drawn(page, "curves", "seeds") == models(page)
    page.locator("#task").select_option("parity_check")
    assert page.evaluate("data.tasks[state.task]") == "parity_check"


def test_the_scaling_panel_says_what_the_runs_carry(page):
    see(page, "scaling")
    assert page.locator("#scaling-axis").inner_text() == "model.width"
    laws = page.locator("#laws p").all_inner_texts()
    assert len(laws) == 2 * len(LABELS)
    assert laws[0].endswith("no regression: x has 2 values, a slope needs 3.")
    kinds = page.evaluate("document.getElementById('scaling').data.map(t => t.meta.kind)")
    assert kinds == ["seeds", "median"] * len(LABELS)


def test_models_that_are_known_scale_with_their_parameters(page):
    see(page, "scaling")
    page.locator("#axis").select_option("num_parameters")
    assert page.locator("#scaling-axis").inner_text() == "num_parameters"
    # of what this version cannot build nobody knows the size
    x = page.evaluate(
        "document.getElementById('scaling').data.find(t => t.meta.kind === 'median').meta.label"
    )
    assert x == "lstm"
    assert len(page.locator("#laws p").all_inner_texts()) == 2
    ticks = page.evaluate("document.getElementById('scaling').layout.xaxis.ticktext")
    config = LstmConfig(kind="lstm", width=20)
    assert ticks[0] == str(config.num_parameters(2, 2))


def test_the_cell_stands_beside_its_seeds(page):
    see(page, "strip")
    assert len(drawn(page, "strip", "together")) == 4
    text = page.evaluate(
        "document.getElementById('strip').data.find(t => t.meta.kind === 'together').text[0]"
    )
    # the first that is drawn is the lowest
    square = page.locator(".heat tr").last.locator("a").first
    assert f"half way to chance at {square.locator('span').inner_text()}" in text


def test_a_point_says_what_was_counted(page):
    text = page.evaluate(
        "document.getElementById('curves').data.find(t => t.meta.kind === 'seeds').text[0]"
    )
    assert text.endswith("0.25x (10 tokens)<br>512 of 512 right, 100.00 %")
    page.locator("#curves").hover(position={"x": 60, "y": 40})


def test_texts_are_shown_as_they_are(page):
    assert page.locator("h1").inner_text() == HOSTILE
    assert any(HOSTILE in name for name in models(page))
    page.locator(".heat a", has_text="collapses").last.click()
    assert HOSTILE in page.locator("#detail").inner_text()
    see(page, "strip")
    assert "<b>" in "".join(page.locator("#strip .ytick").all_text_contents())


def test_light_and_dark(browser, path):
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        see(page, "curves")
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("#theme").click()
        colours[f"{scheme}, changed"] = page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        see(page, "curves")
        # the page's policy forbids the `eval` with which playwright would wait
        page.evaluate(
            """() => new Promise((done, fail) => {
                const until = performance.now() + 60000;
                const look = () =>
                    place('curves').layout.font.color === variable('--ink') ? done()
                    : performance.now() > until ? fail('not drawn again')
                    : setTimeout(look, 20);
                look();
            })"""
        )
        page.close()
    assert colours["light"] == colours["dark, changed"] != colours["dark"]
    assert colours["dark"] == colours["light, changed"]


QUOTED = json.dumps(HOSTILE)
# what no string can match as well as a 0 is still part of the task's label
REGEX = "(0|1)*1|(<script>alert(1)</script>&0)"
STATES = f"states: {{even: [even, {QUOTED}], {QUOTED}: [{QUOTED}, even]}}, accept: [even]"
TASK = f'{{name: mine, automaton: {{alphabet: "01", {STATES}}}}}'
FREE = f"""
name: tiny
question: {QUOTED}  # {HOSTILE}
grid:
  task: [{{regex: "{REGEX}", alphabet: '01'}}, {TASK}]
  model: [{{kind: lstm, width: 4}}, {{kind: lstm, width: 8}}]
train: {{steps: 2, max_length: 8, batch_size: 8}}
evaluate: {{multiples: [1, 2], strings: 64}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: tiny", f"name: {QUOTED}", r"name .*is no name\. Use letters"),
        ("name: mine", f"name: {QUOTED}", r"name: .*is no name\. Use letters"),
        (TASK, QUOTED, "no task is called"),
        ('"01"', QUOTED, "automaton.states.even: wants one state per symbol"),
        ("  task:", f"  {QUOTED}: [1]\n  task:", "no axis is called"),
        ("kind: lstm", f"kind: {QUOTED}", "no model is called"),
        ("lstm, width: 8", f"lstm, width: 8, {QUOTED}: 1", "no field is called"),
        ("steps: 2", f"steps: {QUOTED}", "wants a whole number"),
        ("evaluate:", f"sampling: {QUOTED}\nevaluate:", "no sampling is called"),
    ],
)
def test_what_names_things_is_no_free_text(old, new, message):
    assert old in FREE
    with pytest.raises(SpecError, match=message):
        parse_study(FREE.replace(old, new, 1), "study.yaml")


def test_what_is_free_text_in_a_study_is_text_on_its_page(browser, tmp_path):
    store = Store(str(tmp_path / "results"))
    study = parse_study(FREE, "study.yaml", [f"question={QUOTED}"])
    record = new_record(["submit", f"{HOSTILE}.yaml", "--set", f"question={QUOTED}"])
    for trial in prepare(study, store, record).plan.trials:
        rows = [
            dict.fromkeys(("loss", "seconds"), 0.0)
            | {"trial_id": trial.trial_id, "attempt_id": "1", "eval_seed": 0, "committed_at": None}
            | {"length": length, "multiple": length / 8, "num_total": 64, "chance": 0.5}
            | {"num_correct": 64}
            for length in (8, 16)
        ]
        store.commit("evaluations", trial.trial_id, rows)
    path = tmp_path / "report.html"
    write_report(store, "tiny", path)
    page = browser.new_page()
    troubles = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    see(page, "curves")
    assert page.locator("h1").inner_text() == HOSTILE
    label = f"regex[01]:{REGEX}"
    assert page.locator(".heat thead th").all_inner_texts() == [label, "mine"]
    assert page.locator("#task option").all_inner_texts() == [label, "mine"]
    page.locator(".heat a").first.click()
    assert f" on {label}: " in page.locator("#detail").inner_text()
    see(page, "scaling")
    assert f"{label}, lstm: no regression" in page.locator("#laws").inner_text()
    # the file with its comment, its question and its states, and the command
    shown = "".join(page.locator("pre").all_inner_texts())
    assert FREE.strip() in shown
    assert f"'{HOSTILE}.yaml'" in shown
    answers = page.locator(".answers li").all_inner_texts()
    assert len(answers) == 2
    assert all("Near-perfect at 2x: undecided in both tasks; at 3x: untested" in a for a in answers)
    page.close()
    assert troubles == []


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_is_wider_than_the_screen(browser, path, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    see(page, "curves")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
