"""LaTeX for a paper: escaped texts and booktabs tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    found = escape(text).replace("..", "--")
    found = re.sub(r"(?<=\d)x\b", r"$\\times$", found)
    return found.replace(_ESCAPED[">"], "$>$").replace(_ESCAPED["<"], "$<$")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, caption: str, label: str
) -> str:
    r"""Return a floating booktabs table; needs ``\usepackage{booktabs}`` and T1 or Unicode fonts.

    Args:
        columns: heads, LaTeX.
        rows: cells, LaTeX; what repeats the row before in the first column is left blank.
        align: one letter per column.
        caption: LaTeX.
        label: for ``\ref``.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
        r"\toprule",
        rf"{' & '.join(columns)} \\",
        r"\midrule",
    ]
    before = None
    for first, *others in rows:
        if before is not None and first != before:
            lines.append(r"\addlinespace")
        lines.append(rf"{' & '.join(['' if first == before else first, *others])} \\")
        before = first
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)
