"""The paper pack: the same bytes twice, the SQL of every number, and found out when it is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from tests.conftest import submit_tiny

from ldru_study.analysis.export import CLAIMS, CURVES, FIGURE, PREVIEW, VERDICTS
from ldru_study.analysis.latex import escape, table, typeset
from ldru_study.analysis.views import open_database
from ldru_study.cli import main
from ldru_study.results.query import to_records
from ldru_study.results.store import Store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("export") / "results"))
    submit_tiny(store)
    return store


@pytest.fixture
def store(whole, tmp_path):
    """Return a copy that a test may spoil."""
    shutil.copytree(whole.uri, tmp_path / "results")
    return Store(str(tmp_path / "results"))


def export(store, folder, *more, code=0):
    done = CliRunner().invoke(
        main, ["export", "tiny", "--latex", str(folder), "--store", store.uri, *more]
    )
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def pack(store, tmp_path):
    export(store, tmp_path / "paper")
    return tmp_path / "paper"


def test_twice_gives_the_same_bytes(store, pack, tmp_path):
    export(store, tmp_path / "again")
    names = sorted(path.name for path in pack.iterdir())
    assert names == sorted([VERDICTS, CURVES, FIGURE, PREVIEW, CLAIMS])
    for name in names:
        assert (pack / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert (pack / FIGURE).read_bytes().startswith(b"%PDF")
    assert export(store, pack, "--check").stdout == ""


def test_every_number_has_the_sql_that_gives_it(store, pack):
    claims = json.loads((pack / CLAIMS).read_text())["claims"]
    database = open_database(store)
    for claim in claims:
        assert to_records(database.sql(claim["sql"])) == [claim["values"]]
    for name, keys in ((VERDICTS, 2), (CURVES, 3)):
        head, body = (pack / name).read_text().split(r"\midrule")
        body = body.split(r"\bottomrule")[0]
        num_columns = head.splitlines()[-1].count(" & ")
        rows = re.findall(r"^(.*) \\\\$", body, flags=re.MULTILINE)
        assert len(rows) == {VERDICTS: 2, CURVES: 3}[name]
        texts = {claim["text"] for claim in claims if claim["file"] == name}
        for row in rows:
            entries = row.split(" & ")
            assert len(entries) == num_columns + 1
            assert set(entries[keys:]) <= texts
            assert name == CURVES or re.search(r"\d", row)


def test_a_number_that_no_longer_follows_is_named_with_its_cell(store, pack):
    rows, _ = store.read("evaluations")
    row = rows.to_pylist()[0]
    newer = row | {"attempt_id": "9" + row["attempt_id"], "num_correct": 1}
    store.commit("evaluations", "newer", [newer])
    done = export(store, pack, "--check", code=4)
    [cell] = open_database(store).rows(
        "select cell from trials where trial_id = $trial_id", trial_id=row["trial_id"]
    )
    named = {line.split(": ")[1].split(",")[0] for line in done.stdout.splitlines()}
    assert cell["cell"] in {name.partition(" seed")[0] for name in named}
    assert {name.partition(" seed")[0] for name in named} == {cell["cell"]}
    assert re.search(r"says .*, but accuracy_\w+ .* is now ", done.stdout)
    # and nothing was written
    export(store, pack)
    export(store, pack, "--check")


def test_what_was_changed_by_hand_is_found(store, pack):
    path = pack / VERDICTS
    text = path.read_text()
    path.write_text(text.replace("strings: 64;", "strings: 65;", 1))
    done = export(store, pack, "--check", code=4)
    assert re.match(r"verdicts.tex: line \d+ says .*65", done.stdout)
    path.unlink()
    assert "verdicts.tex: is missing." in export(store, pack, "--check", code=4).stdout
    path.write_text(text)
    claims = json.loads((pack / CLAIMS).read_text())
    claims["claims"][0]["sql"] = "select * from read_csv('/etc/passwd')"
    (pack / CLAIMS).write_text(json.dumps(claims))
    assert (
        "its SQL is refused (query: 'read_csv' is" in export(store, pack, "--check", code=4).stdout
    )


def test_what_is_not_there(store, tmp_path):
    done = export(store, tmp_path / "none", "--check", code=3)
    assert "claims.json: is missing. `ldru-study export tiny --latex" in done.stderr
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / CLAIMS).write_text("[]")
    assert "is no file of `export`" in export(store, tmp_path / "none", "--check", code=2).stderr
    empty = Store(str(tmp_path / "empty"))
    for name in ("spec.yaml", "resolved.json", "provenance.json"):
        path = f"studies/tiny/{name}"
        empty.files.write(path, store.files.read(path))
    assert "no trial has been evaluated yet" in export(empty, tmp_path / "no", code=3).stderr


def test_values_are_set_as_in_a_paper():
    assert typeset("96.9..98.8 %") == r"96.9--98.8 \%"
    assert typeset("> 100x") == r"$>$ 100$\times$"
    assert typeset("3.9x (3.6x to 4.2x)") == r"3.9$\times$ (3.6--4.2$\times$)"
    assert typeset("64x to ?") == r"64$\times$ to ?"
    assert typeset("0 % to 53 %") == r"0--53 \%"
    assert typeset("1.6 (1.5 to 1.8)") == "1.6 (1.5--1.8)"
    assert typeset("-") == "--"


def test_latex_sees_no_commands():
    assert escape(r"a_b \input{x} $1$ 50% #1 & ~^") == (
        r"a\_b \textbackslash{}input\{x\} \$1\$ 50\% \#1 \& \textasciitilde{}\textasciicircum{}"
    )
    assert escape("one\ntwo\x00\x1b") == "one two"
    assert escape("a--b [c] <d>") == r"a{-}{-}b {[}c{]} \textless{}d\textgreater{}"
    text = table(
        ["A", "B"], [["x", "1"], ["x", "2"], ["y", "3"]], align="lr", caption="C", label="t"
    )
    assert r"\begin{table}" in text
    assert "x & 1 \\\\\n & 2 \\\\\n\\addlinespace\ny & 3 \\\\\n" in text


def test_many_rows_go_over_pages():
    rows = [["x", str(n)] for n in range(100)]
    text = table(["A", "Two words here"], rows, align="lr", caption="C", label="t")
    assert text.count(r"\begin{table}") == text.count(r"\clearpage") == 3
    assert text.count(r"A & \shortstack[r]{Two words\\here} \\") == 3
    assert text.count(r"\label{t}") == text.count(r"\caption{C}") == 1
    assert re.findall(r"^x & (\d+)", text, flags=re.MULTILINE) == ["0", "40", "80"]


def test_what_is_the_same_in_all_rows_is_said_once(pack):
    head, _, body = (pack / VERDICTS).read_text().partition(r"\toprule")
    assert "The same in all rows: strings: 64; longest: " in head
    assert "Strings" not in body


PDFLATEX = shutil.which("pdflatex")
STYLES = ("booktabs", "graphicx", "lmodern", "textcomp")


def lacks_latex():
    """Return why nothing can be compiled here; '' when it can."""
    if PDFLATEX is None:
        return "needs pdflatex on the PATH"
    for style in STYLES:
        done = subprocess.run(["kpsewhich", f"{style}.sty"], capture_output=True, check=False)
        if done.returncode:
            return f"needs the LaTeX package {style}"
    return ""


def compile_tex(path):
    """Return what pdflatex says of a document, in two runs as references need."""
    command = [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", path.name]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=path.parent, capture_output=True, text=True, errors="replace", check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.skipif(bool(lacks_latex()), reason=lacks_latex())
def test_the_preview_compiles_and_nothing_is_too_wide(store, pack):
    said = compile_tex(pack / PREVIEW)
    assert "Overfull" not in said
    assert "undefined" not in said
    assert (pack / "preview.pdf").read_bytes().startswith(b"%PDF")
    # what LaTeX leaves beside the pack is none of its files
    export(store, pack, "--check")


@pytest.mark.skipif(bool(lacks_latex()), reason=lacks_latex())
@pytest.mark.parametrize("num_rows", [3, 100])
def test_any_text_compiles(tmp_path, num_rows):
    text = r"\input{x} $1$ 50% #1 & ~^ a_b--c [d] <e> |\"`' {f"
    rows = [[escape(text), typeset("> 100x"), typeset("-")]] * num_rows
    body = table([text, "B", "C"], rows, align="lrr", caption=escape(text), label="tab:a_b-50_c")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}"
    styles = rf"\usepackage{{{','.join(STYLES)}}}"
    document = [head, styles, r"\begin{document}", body, r"\ref{tab:a_b-50_c}", r"\end{document}"]
    (tmp_path / "any.tex").write_text("\n".join(document))
    said = compile_tex(tmp_path / "any.tex")
    assert "undefined" not in said
