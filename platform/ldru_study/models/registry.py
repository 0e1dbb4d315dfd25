"""From a model's configuration to its module with initial weights."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from ldru_study.models.ldru import Ldru
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


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def associativity_defect(model: nn.Module, tokens: Tensor, lengths: Tensor) -> float | None:
    """Return `Ldru.associativity_defect`, or None for a model without an operator."""
    return model.associativity_defect(tokens, lengths) if isinstance(model, Ldru) else None
