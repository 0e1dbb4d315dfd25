"""What the ops are measured against: other ways to run the same merges, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_kernels.folding import layout
from ldru_kernels.reference import parent_states
from ldru_kernels.weights import FeedForward, MergeWeights, Mlp, Norm, listed, shapes

# computes what is timed, and waits for it unless it is on a GPU
Step = Callable[[], Any]
# the leaf states of tokens of any shape, [..., E]; None stands for one token of each kind
Leaf = Callable[[Tensor | None], Tensor]
# roots [B, E] from leaf states, tokens [B, T], lengths [B] and weights
Roots = Callable[[Leaf, Tensor, Tensor, MergeWeights], Tensor]
# tokens, lengths and labels
Batch = tuple[Tensor, Tensor, Tensor]


def level_by_level(leaves: Tensor, weights: MergeWeights) -> Tensor:
    """Reduce [B, T, E] as one writes it down: one batched merge a level, zero_left."""
    while leaves.shape[1] > 1:
        if leaves.shape[1] % 2:
            zero = torch.zeros_like(leaves[:, :1])
            leaves = torch.cat([leaves[:, :-1], zero, leaves[:, -1:]], dim=1)
        leaves = parent_states(leaves.reshape(len(leaves), -1, 2 * leaves.shape[2]), weights)
    return leaves[:, 0]


def padded_and_masked(leaves: Tensor, weights: MergeWeights, lengths: Tensor) -> Tensor:
    """Reduce sequences of different lengths as if all had T tokens, and pick the roots."""
    counts = lengths
    is_right = torch.tensor([False, True], device=leaves.device)[:, None]
    while leaves.shape[1] > 1:
        leaves = F.pad(leaves, (0, 0, 0, leaves.shape[1] % 2))
        pairs = leaves.reshape(len(leaves), -1, 2, leaves.shape[2])
        ends = torch.arange(1, 2 * pairs.shape[1], 2, device=leaves.device)
        is_lone = (ends == counts[:, None])[..., None, None]
        swapped = torch.where(is_lone, pairs.flip(2), pairs) * (~is_lone | is_right)
        parents = parent_states(swapped.flatten(2), weights)
        leaves = torch.where((counts > 1)[:, None, None], parents, pairs[:, :, 0])
        counts = (counts + 1) // 2
    return leaves[:, 0]


class _Reader(nn.Module):
    """Embedding, norm and residual FFN per token, a tree, one affine readout: a whole LDRU."""

    def __init__(self, roots: Roots, num_symbols: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.roots, self.tree = roots, random_weights(width, torch.float32, device)
        self.embedding = nn.Embedding(num_symbols, width, device=device)
        self.leaf_norm = nn.LayerNorm(width, device=device)
        self.leaf_ffn = nn.Sequential(
            nn.Linear(width, 4 * width, device=device),
            nn.ReLU(),
            nn.Linear(4 * width, width, device=device),
        )
        self.classifier = nn.Linear(width, 2, device=device)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.roots(self._leaf, tokens, lengths, self.tree))
        return logits

    def _leaf(self, tokens: Tensor | None) -> Tensor:
        embedded = self.embedding.weight if tokens is None else self.embedding(tokens)
        normed = self.leaf_norm(embedded)
        leaf: Tensor = normed + self.leaf_ffn(normed)
        return leaf

    def all_weights(self) -> list[Tensor]:
        return [*self.parameters(), *listed(self.tree)]


def training_step(roots: Roots, num_symbols: int, width: int, batches: list[Batch]) -> Step:
    """Return an optimiser step of a model that classifies strings: AMSGrad, gradients clipped."""
    torch.manual_seed(0)
    model = _Reader(roots, num_symbols, width, batches[0][0].device)
    weights = model.all_weights()
    optimizer = torch.optim.AdamW(weights, lr=1e-4, amsgrad=True, fused=True)
    turns = itertools.cycle(batches)

    def step() -> None:
        tokens, lengths, labels = next(turns)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens, lengths), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return step


def evaluation_step(roots: Roots, num_symbols: int, width: int, batches: list[Batch]) -> Step:
    """Return the forward pass of a model that classifies strings."""
    torch.manual_seed(0)
    model = _Reader(roots, num_symbols, width, batches[0][0].device)
    turns = itertools.cycle(batches)

    def step() -> None:
        tokens, lengths, _ = next(turns)
        with torch.inference_mode():
            model(tokens, lengths).argmax(1)

    return step


def generic_scan(leaves: Tensor, weights: MergeWeights) -> Tensor:
    """Return all prefixes [B, T, E] by torch's generic associative scan."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: Tensor, right: Tensor) -> Tensor:
        return parent_states(torch.cat([left, right], dim=-1), weights)

    scanned: Tensor = associative_scan(combine, leaves, dim=1, combine_mode="generic")
    return scanned


def jax_step(leaves: Tensor, weights: MergeWeights, precision: str, *, scans: bool) -> Step:
    """Return the step of jax.jit, for the reduction level by level or jax.lax.associative_scan.

    Raises:
        ImportError: there is no jax.
    """
    import jax
    import jax.numpy as jnp

    named = zip(layout("mlp", leaves.shape[-1]), listed(weights), strict=True)
    dtype = jnp.bfloat16 if leaves.dtype == torch.bfloat16 else jnp.float32

    def array(tensor: Tensor) -> Any:
        return jnp.asarray(tensor.detach().float().cpu().numpy(), dtype)

    w = {name: array(tensor) for name, tensor in named}

    def merge(w: dict[str, Any], left: Any, right: Any) -> Any:
        hidden = jax.nn.relu(jnp.concatenate([left, right], -1) @ w["w1"] + w["b1"])
        hidden = jax.nn.relu(hidden @ w["w2"] + w["b2"])
        gate_left, gate_right = jnp.split(hidden @ w["w3"] + w["b3"], 2, axis=-1)
        total = (gate_left * left) @ w["v_left"] + w["a_left"]
        total = total + (gate_right * right) @ w["v_right"] + w["a_right"]
        merged = total @ w["w_out"] + w["b_out"]
        hidden = jax.nn.relu(merged @ w["node_ffn.w1"] + w["node_ffn.b1"])
        merged = merged + hidden @ w["node_ffn.w2"] + w["node_ffn.b2"]
        centred = merged - merged.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred * scale * w["node_norm.weight"] + w["node_norm.bias"]

    def result(w: dict[str, Any], x: Any) -> Any:
        if scans:
            return jax.lax.associative_scan(lambda left, right: merge(w, left, right), x, axis=1)
        while x.shape[1] > 1:
            if x.shape[1] % 2:
                x = jnp.concatenate([x[:, :-1], jnp.zeros_like(x[:, :1]), x[:, -1:]], 1)
            x = merge(w, x[:, ::2], x[:, 1::2])
        return x

    matmul = {"ieee": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}[precision]
    x = array(leaves)
    with jax.default_matmul_precision(matmul):
        gradient = jax.jit(jax.grad(lambda w, x: (result(w, x) ** 2).sum(), argnums=(0, 1)))
        jax.block_until_ready(gradient(w, x))
    return lambda: jax.block_until_ready(gradient(w, x))


def random_weights(
    width: int, dtype: torch.dtype, device: torch.device, population: int | None = None
) -> MergeWeights:
    """Return weights of operator `mlp` that keep states and gradients of order one."""
    generator = torch.Generator().manual_seed(0)
    first = () if population is None else (population,)

    def draw(*shape: int) -> Tensor:
        scale = shape[0] ** -0.5 if len(shape) == 2 else 0.1
        values = torch.randn(first + shape, generator=generator) * scale
        return values.to(device, dtype).requires_grad_()

    def group(kind: type[Any]) -> Any:
        return kind(**{name: draw(*shape) for name, shape in shapes(kind, width).items()})

    norm = Norm(torch.ones(*first, width, dtype=dtype, device=device).requires_grad_(), draw(width))
    return MergeWeights(group(Mlp), group(FeedForward), norm)
