"""The layer of the attention models: multi-head attention and an FFN, post-norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.layers import FeedForward, variance_scaling
from ldru_study.models.positions import rotate, sinusoids, turned_back


class AttentionLayer(nn.Module):
    """Attention and a ReLU FFN of 4E, each followed by residual and norm; weights Glorot normal.

    The four attention maps have no biases: a key's would have no effect on a softmax.

    Args:
        width: E.
        heads: H.
        positions: "rope" or "relative" for scores that depend on the distance; anything else
            leaves positions to the caller.
        dropout: of both branches.
    """

    def __init__(self, width: int, heads: int, positions: str, dropout: float) -> None:
        super().__init__()
        self.heads, self.positions, self.dropout = heads, positions, dropout
        self.w_query = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.w_key = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.w_value = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.w_out = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width)
        self.ffn_norm = nn.LayerNorm(width)
        if positions == "relative":
            self.w_distance = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
            self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
            self.distance_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Return new states of the queries, which attend to ``x``.

        Args:
            queries: [B, Q, E].
            query_positions: [B, Q] or [1, Q].
            x: [B, T, E].
            positions: of ``x``, [1, T].
            mask: what is added to the scores, or bool where they count, [B, H, Q, T] or broadcast.
        """
        query, key = self._heads(queries @ self.w_query), self._heads(x @ self.w_key)
        scale = query.shape[-1] ** -0.5
        if self.positions == "rope":
            query, key = rotate(query, query_positions), rotate(key, positions)
        elif self.positions == "relative":
            query, key = self._with_distances(query, query_positions, key, positions)
        value = self._heads(x @ self.w_value)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        attended = self._dropout(read.transpose(1, 2).flatten(2) @ self.w_out)
        states = self.attention_norm(queries + attended)
        out: Tensor = self.ffn_norm(states + self._dropout(self.ffn(states)))
        return out

    def _with_distances(
        self, query: Tensor, query_positions: Tensor, key: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys whose products are ``(q + u) . k + (q + v) . W r_(i - j)``.

        r are the sinusoids of the distance. Sines and cosines of a difference are products of
        those of its parts, so (q + v) . W r_(i - j) is that of a query turned by its position
        with the sinusoids of j, and no table of all distances is needed.

        Source: Dai et al. 2019 (Transformer-XL), section 3.3.
        """
        waves = self.w_distance.view(len(self.w_distance), self.heads, -1).permute(1, 2, 0)
        weights = turned_back((query + self.distance_bias) @ waves, query_positions)
        places = sinusoids(positions, weights.shape[-1])[:, None].to(key.dtype)
        shape = (*key.shape[:3], -1)
        return (
            torch.cat([query + self.content_bias, weights], dim=-1),
            torch.cat([key, places.expand(shape)], dim=-1),
        )

    def _heads(self, x: Tensor) -> Tensor:
        """Cut the features of [B, T, E] into heads, [B, H, T, E / H]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
