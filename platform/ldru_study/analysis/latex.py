"""LaTeX for a paper: escaped texts and booktabs tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

# more rows are higher than a page
_MOST_FLOATING = 40
_SHORT_HEAD = 8
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    # two hyphens would become a dash
    "-": r"{-}",
    # a bracket after the end of a row would be read as its argument
    "[": r"{[}",
    "]": r"{]}",
}


def escape(text: str) -> str:
    """Return a text that LaTeX sets as it is, on one line; other control characters are dropped."""
    flat = " ".join(text.split())
    return "".join(_ESCAPED.get(c, c) for c in flat if c.isprintable())


def typeset(text: str) -> str:
    """Return a value of our own tables, such as "> 100x" or "96.9..98.8 %", as in a paper."""
    if text == "-":
        return "--"
    found = escape(text).replace("..", "--")
    # one unit for both ends
    found = re.sub(r"(?<=\d)(x| \\%|) to (?=[\d.]+\1)", "--", found)
    found = re.sub(r"(?<=\d)x\b", r"$\\times$", found)
    return found.replace(_ESCAPED[">"], "$>$").replace(_ESCAPED["<"], "$<$")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, caption: str, label: str
) -> str:
    r"""Return a booktabs table, no wider than the text; needs T1 or Unicode fonts.

    It floats and needs ``\usepackage{booktabs,graphicx}``. One of more than 40 rows is several
    floats of one number, each on a page of its own.

    Args:
        columns: heads; those of several words are set in two lines.
        rows: cells, LaTeX; what repeats the row before in the first column is left blank.
        align: one letter per column.
        caption: LaTeX.
        label: for ``\ref``.
    """
    heads = " & ".join(_head(*one) for one in zip(columns, align, strict=True))
    parts = [rows[n : n + _MOST_FLOATING] for n in range(0, len(rows), _MOST_FLOATING)]
    lines = []
    for number, part in enumerate(parts):
        said = [rf"\caption{{{caption}}}", rf"\label{{{label}}}"]
        again = [r"\addtocounter{table}{-1}", r"\caption{Continued.}"]
        lines += [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}",
            *(again if number else said),
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *_body(part),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            # LaTeX keeps a limited number of floats in mind
            *([r"\clearpage"] if len(parts) > 1 else []),
        ]
    return "\n".join([*lines, ""])


def _head(text: str, align: str) -> str:
    """Set a head; one of several words in the two lines that are most alike in width."""
    words = text.split()
    if len(words) < 2 or len(text) <= _SHORT_HEAD:
        return typeset(text)
    pairs = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
    lines = min(pairs, key=lambda pair: max(map(len, pair)))
    return rf"\shortstack[{align}]{{{typeset(lines[0])}\\{typeset(lines[1])}}}"


def _body(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    before = None
    for first, *others in rows:
        if before is not None and first != before:
            lines.append(r"\addlinespace")
        lines.append(rf"{' & '.join(['' if first == before else first, *others])} \\")
        before = first
    return lines
