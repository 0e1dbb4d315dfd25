"""YAML as people read it: 1e-3 is a number, ``on`` is a word, a repeated key is a mistake.

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``on`` is true and ``012`` is ten. The loader here
keeps PyYAML's safe parser and resolves plain scalars as YAML 1.2's core schema does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldru_study.errors import NotFoundError, SpecError
from ldru_study.spec.paths import Place, format_place

_FIRST_OF_NUMBER = list("-+.0123456789")
_KINDS = {yaml.ScalarNode: "single value", yaml.SequenceNode: "list"}


class _Loader(yaml.SafeLoader):
    """Safe construction with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?\d+", _FIRST_OF_NUMBER),
    ("float", r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.inf|\.nan", _FIRST_OF_NUMBER),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first
    )
# the inherited constructors read 012 as octal and refuse exponents without a dot
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(str(node.value).replace(".inf", "inf").replace(".nan", "nan")),
)


@dataclass(frozen=True)
class YamlFile:
    """The mapping in a YAML file, its text, and the line (from 1) of every place in it."""

    source: str
    text: str
    content: dict[str, Any]
    lines: dict[Place, int]


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file whose top level is a mapping.

    Raises:
        NotFoundError: there is no such file.
        SpecError: it is not UTF-8, not YAML, not a mapping with text keys, or gives a key twice.
    """
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{source}: no such file. Give the path of a study file.") from None
    except IsADirectoryError:
        raise SpecError(source, ["it is a folder. Give the path of a study file."]) from None
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8. Save the file as UTF-8 text."
        raise SpecError(source, [problem]) from None
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str) -> YamlFile:
    """Parse YAML text whose top level is a mapping; see `read_yaml` for what is raised."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            found = "nothing" if root is None else f"a {_KINDS[type(root)]}"
            raise SpecError(
                source,
                [f"a study is a mapping of fields such as 'name' and 'grid'; found {found}."],
            )
        lines: dict[Place, int] = {}
        problems = _walk(root, (), lines, ())
        if problems:
            raise SpecError(source, problems)
        return YamlFile(source, text, loader.construct_document(root), lines)
    except yaml.YAMLError as error:
        raise SpecError(source, [_yaml_problem(error)]) from None
    finally:
        loader.dispose()


def parse_scalar(text: str) -> Any:
    """Parse one YAML value, as the command line's ``--set key=value`` gives it.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, _Loader)


def _walk(
    node: yaml.Node, place: Place, lines: dict[Place, int], above: tuple[yaml.Node, ...]
) -> list[str]:
    lines.setdefault(place, node.start_mark.line + 1)
    where = format_place(place) or "the file"
    if node in above:
        return [f"{where} (line {lines[place]}): an alias refers to a value that contains it."]
    above = (*above, node)
    problems: list[str] = []
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            problems += _walk(item, (*place, number), lines, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = getattr(key, "value", "")
                problems.append(
                    f"{where} (line {line}): the key {shown!r} is not text. Put it in quotes."
                )
                continue
            if key.value in seen:
                problems.append(
                    f"{format_place((*place, key.value))} (line {line}): given twice, first on "
                    f"line {seen[key.value]}. Keep one."
                )
            seen[key.value] = line
            lines[(*place, key.value)] = line
            problems += _walk(value, (*place, key.value), lines, above)
    return problems


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    what = getattr(error, "problem", None) or str(error)
    return f"{where}not YAML: {what}. Check indentation, quotes and brackets there."
