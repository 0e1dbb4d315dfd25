"""Weights and states as safetensors files that carry what they are, and a checksum; no pickle.

A state holds whole fp32 weights and whole moments, whichever engine trained and however many
workers had shares of them: so any other may continue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ldru_study.spec.trial import TrialConfig
from ldru_study.training.failures import DamagedError


def dump_weights(weights: Mapping[str, Tensor], config: TrialConfig) -> bytes:
    """Return a model's weights as a safetensors file that carries its trial's configuration."""
    about = {"trial_id": config.trial_id, "config": config.model_dump(mode="json")}
    return dump(weights, about)


def dump(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return tensors and JSON values as one file; ``about`` holds at least ``trial_id``."""
    plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    sealed = {"about": about, "sha256": _digest(plain, about)}
    data: bytes = safetensors.torch.save(plain, {"ldru_study": json.dumps(sealed)})
    return data


def load(data: bytes, config: TrialConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `dump` was given.

    Raises:
        DamagedError: the bytes are damaged or belong to another trial.
    """
    try:
        tensors = safetensors.torch.load(data)
        # the library reads tensors from bytes, and metadata only from files: take the header here
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        sealed = json.loads(header["__metadata__"]["ldru_study"])
        about: dict[str, Any] = sealed["about"]
        is_whole = sealed["sha256"] == _digest(tensors, about)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"it is damaged ({error})") from error
    if not is_whole:
        raise DamagedError("it is damaged (its content does not match its checksum)")
    if about["trial_id"] != config.trial_id:
        raise DamagedError(f"it is of trial {about['trial_id']}, wanted {config.trial_id}")
    return tensors, about


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all content: a flipped bit is damage, not another model."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
