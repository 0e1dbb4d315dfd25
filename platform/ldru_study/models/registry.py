"""From a model's configuration to its module with initial weights."""

from __future__ import annotations

import importlib
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from ldru_study.models.ldru import Ldru
from ldru_study.models.transformer import Transformer
from ldru_study.spec.model import MODEL_CONFIGS, ModelConfig, matched


def model_class(kind: str) -> type[nn.Module]:
    """Return the class of a kind's modules: `Gru` of `ldru_study.models.gru` for `GruConfig`."""
    name = MODEL_CONFIGS[kind].__name__.removesuffix("Config")
    found: type[nn.Module] = getattr(importlib.import_module(f"ldru_study.models.{kind}"), name)
    return found


def build_model(config: ModelConfig, *, num_symbols: int, num_classes: int, seed: int) -> nn.Module:
    """Return a model on the CPU; its call is described in `ldru_study.models`.

    Args:
        config: which model.
        num_symbols: V, the size of the alphabet.
        num_classes: C.
        seed: decides every initial weight, in 0..2^64 - 1; torch's own generator stays as it is.

    Raises:
        ValueError: no width has as many parameters as the configuration wants.
    """
    config = matched(config, num_symbols, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model_class(config.kind)(config, num_symbols, num_classes)


class Stream(Protocol):
    """Strings that a model is reading piece by piece, without gradients."""

    def push(self, tokens: Tensor) -> None:
        """Take the next tokens of every string, int64 [B, n], n a multiple of 2^14 but at last."""

    def logits(self) -> Tensor:
        """Return the logits [B, C] when all tokens are there."""


@runtime_checkable
class Streaming(Protocol):
    """A model that can read long strings piece by piece."""

    def stream(self, lengths: Tensor) -> Stream:
        """Begin to read strings of ``lengths``, int64 [B]."""


def can_stream(model: nn.Module) -> bool:
    """Whether `begin_stream` takes this model: it has a method ``stream``."""
    return isinstance(model, Streaming)


def begin_stream(model: nn.Module, lengths: Tensor) -> Stream:
    """Begin to read strings of ``lengths``, int64 [B].

    What a stream holds does not grow with the strings, or by a fraction of a byte per token.

    Raises:
        TypeError: this model reads whole strings only; see `can_stream`.
    """
    if not isinstance(model, Streaming):
        raise TypeError(f"model: a {type(model).__name__} reads whole strings only.")
    return model.stream(lengths)


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def share_strings(model: nn.Module, group: ProcessGroup | None) -> None:
    """Let the processes of ``group`` share each string from now on; see `Ldru.sequence_parallel`.

    Raises:
        ValueError: there are several, and the model is no tree that can be cut.
    """
    if isinstance(model, Ldru):
        model.sequence_parallel(group)
    elif group is not None:
        raise ValueError(f"{type(model).__name__}: only the tree of an ldru can be cut")


def draw_brackets(model: nn.Module, seed: int) -> None:
    """Draw a step's brackets, where a model has random ones; see `Ldru.draw_brackets`."""
    if isinstance(model, Ldru):
        model.draw_brackets(seed)


def level_norms(
    model: nn.Module, tokens: Tensor, lengths: Tensor, labels: Tensor
) -> tuple[list[float], list[float]] | None:
    """Return `Ldru.level_norms`, states then gradients, or None for a model without levels."""
    if not isinstance(model, Ldru):
        return None
    states, gradients = model.level_norms(tokens, lengths, labels)
    return states.tolist(), gradients.tolist()


def associativity_penalty(model: nn.Module, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return `Ldru.associativity_penalty`.

    Raises:
        ValueError: the model has no operator.
    """
    if not isinstance(model, Ldru):
        raise ValueError(f"{type(model).__name__}: only an ldru has an operator to penalise")
    return model.associativity_penalty(tokens, lengths)


def recompute_layers(model: nn.Module) -> None:
    """Let a model make the states of each layer again in the backward pass, not keep them.

    Raises:
        ValueError: the model has no layers.
    """
    if not isinstance(model, Transformer):
        raise ValueError(f"{type(model).__name__}: only a transformer has layers to recompute")
    model.recomputes_layers = True


def associativity_defect(model: nn.Module, tokens: Tensor, lengths: Tensor) -> float | None:
    """Return `Ldru.associativity_defect`, or None for a model without an operator."""
    return model.associativity_defect(tokens, lengths) if isinstance(model, Ldru) else None
