"""Logits and gradients of an `ldru` that others computed, held against ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ldru_study.errors import InputError, StudyError, did_you_mean, unknown_name
from ldru_study.models.registry import build_model
from ldru_study.npz_file import Array, read_npz
from ldru_study.spec.model import OPERATORS, Gelu, LdruConfig
from ldru_study.spec.sizes import MAX_WIDTH

TOLERANCE = 1e-4

_PARAMETER = re.compile(r"param/(?P<name>.+)")
_PART = re.compile(r"L(?P<length>[1-9]\d*)/(?P<part>tokens|labels|logits|grad/(?P<name>.+))")
# the norm of operator grc, by the names that it has elsewhere
_NORM = re.compile(r"operator\.(?:norm|ln|layer_?norm)[._](?P<name>[a-z]+)")
_NORM_FIELDS = {
    **dict.fromkeys(("weight", "scale", "gamma"), "operator.norm_weight"),
    **dict.fromkeys(("bias", "offset", "beta"), "operator.norm_bias"),
}
_OPERATORS = tuple(OPERATORS)
_FORMS: tuple[Gelu, ...] = get_args(Gelu)
# gradients smaller than this share of the largest one cannot be told from rounding errors
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Comparison:
    """One operator at one length.

    Args:
        operator: its name.
        length: tokens of every string.
        num_strings: how many there are.
        logits_error: largest difference of a logit, relative to the largest logit; None when none
            are given.
        gradient_error: the same for every given gradient of the mean cross-entropy, by parameter.
            One that is below a millionth of the largest gradient is taken relative to that.
        gelu: of operator grc the form that was compared with: as the file says, or else the one
            that agrees best over all lengths, "either" where they agree as well; None elsewhere.
        gelu_errors: the largest of all errors by every form that was tried.
    """

    operator: str
    length: int
    num_strings: int
    logits_error: float | None
    gradient_error: Mapping[str, float]
    gelu: str | None = None
    gelu_errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def largest_error(self) -> float:
        """The largest of all; infinity where ours is not finite."""
        return max(self.logits_error or 0.0, *self.gradient_error.values(), 0.0)


@dataclass
class _Given:
    """What a file has of one operator: its form, parameters, and by length its other arrays.

    ``unread`` are the parts, "param" or a length, of which an entry could not be read, or was
    twice there.
    """

    gelu: Array | None = None
    parameters: dict[str, Array] = field(default_factory=dict)
    lengths: dict[int, dict[str, Array]] = field(default_factory=dict)
    unread: set[str | int] = field(default_factory=set)


def verify_ldru(path: Path) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Compare logits and gradients in a file with those of `Ldru`, float32, rule `zero_left`.

    Args:
        path: an ``.npz``. For every operator it has ``<operator>/param/<name>``, the weights by
            the names of `Ldru` (the norm of grc also as ``operator.norm.scale`` and the like), and
            for every length ``<operator>/L<T>/tokens`` [B, T], with ``.../logits`` [B, C] or
            ``.../grad/<name>``, gradients of the mean cross-entropy with ``.../labels`` [B].
            ``grc/gelu`` says "exact" or "tanh"; without it both are tried.

    Returns:
        One comparison per operator and length; and what could not be compared, and why.

    Raises:
        NotFoundError: there is no such file.
        InputError: nothing of it can be compared; it names every key that is odd or missing.
        StudyError: it is no such file.
    """
    arrays, unread = read_npz(path)
    sorted_out, problems = _sorted_out(arrays, unread)
    found: list[Comparison] = []
    for operator, given in sorted_out.items():
        try:
            found += _compare_lengths(operator, given, problems)
        except StudyError as error:
            problems.append(str(error))
    if not found:
        raise InputError(str(path), problems)
    return tuple(found), tuple(problems)


def _sorted_out(
    arrays: Mapping[str, Array], unread: Mapping[str, str]
) -> tuple[dict[str, _Given], list[str]]:
    """Return what there is of every operator, and what of the keys is odd."""
    found: dict[str, _Given] = {}
    problems = list(unread.values())
    for key in (*arrays, *unread):
        operator, _, rest = key.partition("/")
        parameter, part = _PARAMETER.fullmatch(rest), _PART.fullmatch(rest)
        says_form = operator == "grc" and rest == "gelu"
        if parameter is None and part is None and not says_form:
            if key in arrays:
                problems.append(
                    f"key '{key}' is none of ours. Write '<operator>/param/<name>' for a weight "
                    "and '<operator>/L<T>/tokens', '.../labels', '.../logits' or "
                    "'.../grad/<name>' for what it does to strings of T tokens."
                )
            continue
        if operator not in _OPERATORS:
            text = unknown_name("operator", operator, _OPERATORS)
            # once for all its keys
            if not any(text in problem for problem in problems):
                problems.append(f"key '{key}': {text}")
            continue
        given = found.setdefault(operator, _Given())
        if key in unread:
            given.unread.add(int(part["length"]) if part else "param")
            continue
        if says_form:
            given.gelu = arrays[key]
            continue
        place, name = given.parameters, parameter["name"] if parameter else ""
        if part:
            place = given.lengths.setdefault(int(part["length"]), {})
            name = part["part"]
        ours = _our_name(operator, name)
        if ours in place:
            problems.append(f"key '{key}': '{ours}' is given twice, by two names. Keep one.")
            given.unread.add(int(part["length"]) if part else "param")
        place[ours] = arrays[key]
    return found, problems


def _our_name(operator: str, name: str) -> str:
    """Return our name of a weight or its gradient; any other name comes back as it is."""
    prefix, bare = ("grad/", name[5:]) if name.startswith("grad/") else ("", name)
    match = _NORM.fullmatch(bare) if operator == "grc" else None
    return prefix + (_NORM_FIELDS.get(match["name"], bare) if match else bare)


def _compare_lengths(operator: str, given: _Given, problems: list[str]) -> list[Comparison]:
    """Compare all lengths that can be; what cannot is added to the problems.

    Raises:
        StudyError: nothing of this operator can be compared.
    """
    # what was wrong with an entry has been said
    if "param" in given.unread:
        return []
    forms: tuple[Gelu | None, ...] = (None,)
    if operator == "grc":
        forms = _FORMS if given.gelu is None else (_form(given.gelu),)
    models = {form: _model(operator, form, given.parameters) for form in forms}
    model = next(iter(models.values()))
    if not given.lengths and not given.unread:
        raise StudyError(
            f"'{operator}/L<T>/...' is missing: '{operator}/param/...' alone compares nothing. "
            f"Add tokens, labels and logits of a length, such as '{operator}/L7/tokens'."
        )
    usable = {}
    for length, arrays in sorted(given.lengths.items()):
        if length in given.unread:
            continue
        try:
            _check(f"'{operator}/L{length}", length, arrays, model)
            usable[length] = arrays
        except StudyError as error:
            problems.append(str(error))
    found = {
        form: [_compare(operator, length, arrays, one) for length, arrays in usable.items()]
        for form, one in models.items()
    }
    errors = {form: [one.largest_error for one in compared] for form, compared in found.items()}
    best = min(found, key=lambda form: max(errors[form], default=0.0))
    if best is None:
        return found[best]
    alike = len(errors) > 1 and len({tuple(of_form) for of_form in errors.values()}) == 1
    return [
        replace(
            one,
            gelu="either" if alike else best,
            gelu_errors={str(form): of_form[place] for form, of_form in errors.items()},
        )
        for place, one in enumerate(found[best])
    ]


def _form(given: Array) -> Gelu:
    word = str(given)
    if word not in _FORMS:
        raise StudyError(f"'grc/gelu': {unknown_name('form of gelu', word, _FORMS)}")
    return word


def _check_numbers(key: str, array: Array, *, integers: bool) -> None:
    if array.dtype.kind not in ("iub" if integers else "f"):
        wanted = "integers" if integers else "floating point"
        raise StudyError(f"{key}': wants {wanted}, found {array.dtype}.")
    if not integers and not np.isfinite(array).all():
        raise StudyError(f"{key}' is not finite. Nothing can be compared with it.")


def _model(operator: str, gelu: Gelu | None, parameters: Mapping[str, Array]) -> nn.Module:
    """Build the model of the weights' shapes and give it the weights."""
    where = f"'{operator}"
    num_symbols, width, num_classes = _sizes(where, parameters)
    raw = {"kind": "ldru", "operator": operator, "width": width, "gelu": gelu or "exact"}
    config = LdruConfig.model_validate(raw)
    model = build_model(config, num_symbols=num_symbols, num_classes=num_classes, seed=0).eval()
    known = model.state_dict()
    expected = _expected(operator, known)
    for name, array in parameters.items():
        if name not in known:
            near = did_you_mean(name, known)
            text = f"{where}/param/{name}' is no weight of operator {operator}."
            raise StudyError(" ".join(filter(None, (text, near, expected))))
        _check_numbers(f"{where}/param/{name}", array, integers=False)
    if missing := [name for name in known if name not in parameters]:
        raise StudyError(
            f"{where}/param/...': missing are {', '.join(missing)}. Add them. {expected}"
        )
    for name, array in parameters.items():
        if array.shape != known[name].shape:
            raise StudyError(
                f"{where}/param/{name}': shape {list(array.shape)}, but with V = {num_symbols}, "
                f"E = {width}, C = {num_classes} it has {list(known[name].shape)}."
            )
        if np.abs(array).max() > np.finfo(np.float32).max:
            raise StudyError(f"{where}/param/{name}': {np.abs(array).max():g} is beyond float32.")
    # float32 as the file's other numbers were computed in
    model.load_state_dict(
        {name: torch.from_numpy(array.astype(np.float32)) for name, array in parameters.items()}
    )
    return model


def _sizes(where: str, parameters: Mapping[str, Array]) -> tuple[int, int, int]:
    """Return V, E and C."""
    sizes = {}
    for name, num_sides in (("embedding.weight", 2), ("classifier.bias", 1)):
        if name not in parameters:
            near = did_you_mean(name, parameters)
            raise StudyError(f"{where}/param/{name}' is missing. {near}".rstrip())
        if parameters[name].ndim != num_sides or 0 in parameters[name].shape:
            shape = ["[V, E]", "[C]"][num_sides == 1]
            found = list(parameters[name].shape)
            raise StudyError(f"{where}/param/{name}': wants shape {shape}, found {found}.")
        sizes[name] = parameters[name].shape
    num_symbols, width = sizes["embedding.weight"]
    if width > MAX_WIDTH:
        raise StudyError(
            f"{where}/param/embedding.weight': wants shape [V, E], found {[num_symbols, width]}; "
            f"E is at most {MAX_WIDTH}. Is it transposed?"
        )
    return num_symbols, width, len(parameters["classifier.bias"])


def _expected(operator: str, known: Mapping[str, torch.Tensor]) -> str:
    """Say what the operator itself has: a file's other names differ less often."""
    own = [f"{name} {list(w.shape)}" for name, w in known.items() if name.startswith("operator.")]
    if not own:
        return f"Operator {operator} has no weights of its own."
    norm = " (or operator.norm.scale and operator.norm.offset)" if operator == "grc" else ""
    return f"Operator {operator} has {', '.join(own)}{norm}."


def _check(where: str, length: int, arrays: Mapping[str, Array], model: nn.Module) -> None:
    """Refuse arrays that do not fit each other or the model."""
    has_gradients = any(part.startswith("grad/") for part in arrays)
    needed = ["tokens", *(["labels"] if has_gradients else ["logits"])]
    for part in needed:
        if part not in arrays:
            raise StudyError(f"{where}/{part}' is missing. Add it.")
    weights = model.state_dict()
    num_symbols, num_classes = len(weights["embedding.weight"]), len(weights["classifier.bias"])
    num_strings = len(arrays["tokens"]) if arrays["tokens"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (num_strings, length),
        "labels": (num_strings,),
        "logits": (num_strings, num_classes),
    }
    for part, array in arrays.items():
        name = part.removeprefix("grad/")
        if part not in shapes and name not in weights:
            near = did_you_mean(name, weights)
            raise StudyError(f"{where}/{part}': the model has no such weight. {near}".rstrip())
        _check_numbers(f"{where}/{part}", array, integers=part in ("tokens", "labels"))
        shape = shapes[part] if part in shapes else tuple(weights[name].shape)
        if array.shape != shape or not num_strings:
            raise StudyError(
                f"{where}/{part}': shape {list(array.shape)}, wanted {list(shape)} with at least "
                "one string."
            )
    for part, limit in (("tokens", num_symbols), ("labels", num_classes)):
        if part in arrays and (arrays[part].min() < 0 or arrays[part].max() >= limit):
            low, high = arrays[part].min(), arrays[part].max()
            raise StudyError(f"{where}/{part}': from {low} to {high}, wanted 0 to {limit - 1}.")


def _compare(
    operator: str, length: int, arrays: Mapping[str, Array], model: nn.Module
) -> Comparison:
    tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))
    logits = model(tokens, torch.full((len(tokens),), length))
    given = {part: array for part, array in arrays.items() if part.startswith("grad/")}
    ours: dict[str, torch.Tensor | None] = {}
    if given:
        model.zero_grad()
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        ours = {f"grad/{name}": value.grad for name, value in model.named_parameters()}
    largest = max((float(np.abs(array).max()) for array in given.values()), default=0.0)
    errors = {
        part.removeprefix("grad/"): _error(ours[part], array, _ROUNDING * largest)
        for part, array in given.items()
    }
    of_logits = None
    if "logits" in arrays:
        of_logits = _error(logits.detach(), arrays["logits"], 0.0)
    return Comparison(operator, length, len(tokens), of_logits, errors)


def _error(ours: torch.Tensor | None, given: Array, floor: float) -> float:
    """Return the largest difference relative to the largest number that is given."""
    found = np.zeros_like(given) if ours is None else ours.numpy()
    difference = float(np.abs(found.astype(np.float64) - given.astype(np.float64)).max())
    scale = max(float(np.abs(given).max()), floor)
    if not difference:
        return 0.0
    return difference / scale if scale and math.isfinite(difference) else math.inf
