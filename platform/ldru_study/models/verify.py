"""Logits and gradients of an `ldru` that others computed, held against ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from ldru_study.errors import StudyError, did_you_mean, unknown_name
from ldru_study.models.registry import build_model
from ldru_study.npz_file import read_npz
from ldru_study.spec.model import LdruConfig, Operator

TOLERANCE = 1e-4

Array: TypeAlias = npt.NDArray[Any]

_PARAMETER = re.compile(r"param/(?P<name>.+)")
_PART = re.compile(r"L(?P<length>[1-9]\d*)/(?P<part>tokens|labels|logits|grad/(?P<name>.+))")
_OPERATORS = get_args(Operator)
# gradients smaller than this share of the largest one cannot be told from rounding errors
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Comparison:
    """One operator at one length.

    Args:
        operator: its name.
        length: tokens of every string.
        num_strings: how many there are.
        logits_error: largest difference of a logit, relative to the largest logit.
        gradient_error: the same for every given gradient of the mean cross-entropy, by parameter.
            One that is below a millionth of the largest gradient is taken relative to that.
    """

    operator: str
    length: int
    num_strings: int
    logits_error: float
    gradient_error: Mapping[str, float]

    @property
    def largest_error(self) -> float:
        """The largest of all; infinity where ours is not finite."""
        return max(self.logits_error, *self.gradient_error.values(), 0.0)


@dataclass
class _Given:
    """What a file has of one operator: parameters, and by length its other arrays."""

    parameters: dict[str, Array] = field(default_factory=dict)
    lengths: dict[int, dict[str, Array]] = field(default_factory=dict)


def verify_ldru(path: Path) -> tuple[Comparison, ...]:
    """Compare logits and gradients in a file with those of `Ldru`, float32, rule `zero_left`.

    Args:
        path: an ``.npz``. For every operator it has ``<operator>/param/<name>``, the weights by
            the names of `Ldru` (or ``operator.norm.weight`` for its ``operator.norm_weight``, and
            so for the bias), and for every length ``<operator>/L<T>/tokens`` [B, T],
            ``.../labels`` [B] and ``.../logits`` [B, C]; if wanted ``.../grad/<name>``, gradients
            of the mean cross-entropy.

    Returns:
        One comparison per operator and length.

    Raises:
        NotFoundError: there is no such file.
        StudyError: it is no such file; the message names the key that is odd or missing.
    """
    found = []
    for operator, given in _sorted_out(path, read_npz(path)).items():
        where = f"{path}: '{operator}"
        model = _model(where, operator, given.parameters)
        if not given.lengths:
            raise StudyError(
                f"{where}/L<T>/...' is missing: '{operator}/param/...' alone compares nothing. "
                "Add tokens, labels and logits of a length, such as "
                f"'{operator}/L7/tokens'."
            )
        for length, arrays in sorted(given.lengths.items()):
            _check(f"{where}/L{length}", length, arrays, model)
            found.append(_compare(operator, length, arrays, model))
    return tuple(found)


def _sorted_out(path: Path, arrays: Mapping[str, Array]) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for key, array in arrays.items():
        operator, _, rest = key.replace("operator.norm.", "operator.norm_").partition("/")
        parameter, part = _PARAMETER.fullmatch(rest), _PART.fullmatch(rest)
        if parameter is None and part is None:
            raise StudyError(
                f"{path}: key '{key}' is none of ours. Write '<operator>/param/<name>' for a "
                "weight and '<operator>/L<T>/tokens', '.../labels', '.../logits' or "
                "'.../grad/<name>' for what it does to strings of T tokens."
            )
        if operator not in _OPERATORS:
            text = unknown_name("operator", operator, _OPERATORS)
            raise StudyError(f"{path}: key '{key}': {text}")
        # integers are for tokens and labels alone
        wanted = "iu" if part and part["part"] in ("tokens", "labels") else "f"
        if array.dtype.kind not in wanted:
            kind = "integers" if wanted == "iu" else "floating point"
            raise StudyError(f"{path}: '{key}': wants {kind}, found {array.dtype}.")
        if wanted == "f" and not np.isfinite(array).all():
            raise StudyError(f"{path}: '{key}' is not finite. Nothing can be compared with it.")
        given = found.setdefault(operator, _Given())
        if parameter:
            given.parameters[parameter["name"]] = array
        elif part:
            given.lengths.setdefault(int(part["length"]), {})[part["part"]] = array
    return found


def _model(where: str, operator: str, parameters: Mapping[str, Array]) -> nn.Module:
    """Build the model of the weights' shapes and give it the weights."""
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
    config = LdruConfig.model_validate({"kind": "ldru", "operator": operator, "width": width})
    (num_classes,) = sizes["classifier.bias"]
    model = build_model(config, num_symbols=num_symbols, num_classes=num_classes, seed=0).eval()
    known = model.state_dict()
    for name in parameters:
        if name not in known:
            near = did_you_mean(name, known)
            raise StudyError(
                f"{where}/param/{name}' is no weight of operator {operator}. {near}".rstrip()
            )
    if missing := [name for name in known if name not in parameters]:
        raise StudyError(f"{where}/param/...': missing are {', '.join(missing)}. Add them.")
    for name, array in parameters.items():
        if array.shape != known[name].shape:
            raise StudyError(
                f"{where}/param/{name}': shape {list(array.shape)}, but with V = {num_symbols}, "
                f"E = {width}, C = {num_classes} it has {list(known[name].shape)}."
            )
    # float32 as the file's other numbers were computed in
    model.load_state_dict(
        {name: torch.from_numpy(array.astype(np.float32)) for name, array in parameters.items()}
    )
    return model


def _check(where: str, length: int, arrays: Mapping[str, Array], model: nn.Module) -> None:
    """Refuse arrays that do not fit each other or the model."""
    for part in ("tokens", "labels", "logits"):
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
        shape = shapes[part] if part in shapes else tuple(weights[name].shape)
        if array.shape != shape or not num_strings:
            raise StudyError(
                f"{where}/{part}': shape {list(array.shape)}, wanted {list(shape)} with at least "
                "one string."
            )
    for part, limit in (("tokens", num_symbols), ("labels", num_classes)):
        low, high = arrays[part].min(), arrays[part].max()
        if low < 0 or high >= limit:
            raise StudyError(f"{where}/{part}': from {low} to {high}, wanted 0 to {limit - 1}.")


def _compare(
    operator: str, length: int, arrays: Mapping[str, Array], model: nn.Module
) -> Comparison:
    tokens, labels = (
        torch.from_numpy(arrays[part].astype(np.int64)) for part in ("tokens", "labels")
    )
    model.zero_grad()
    logits = model(tokens, torch.full((len(tokens),), length))
    F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    ours = {f"grad/{name}": value.grad for name, value in model.named_parameters()}
    given = {part: array for part, array in arrays.items() if part.startswith("grad/")}
    largest = max((float(np.abs(array).max()) for array in given.values()), default=0.0)
    errors = {
        part.removeprefix("grad/"): _error(ours[part], array, _ROUNDING * largest)
        for part, array in given.items()
    }
    return Comparison(
        operator, length, len(tokens), _error(logits.detach(), arrays["logits"], 0.0), errors
    )


def _error(ours: torch.Tensor | None, given: Array, floor: float) -> float:
    """Return the largest difference relative to the largest number that is given."""
    found = np.zeros_like(given) if ours is None else ours.numpy()
    difference = float(np.abs(found.astype(np.float64) - given.astype(np.float64)).max())
    scale = max(float(np.abs(given).max()), floor)
    if not difference:
        return 0.0
    return difference / scale if scale and math.isfinite(difference) else math.inf
