"""A compact GPT: pre-norm transformer, learned positions, squared ReLU (arXiv 2109.08668), the embedding
tied to the output."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Causal self-attention and a four times wider MLP, each behind a norm, each added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> the same shape."""
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(b, t, w))
        out: Tensor = x + self.down(F.relu(self.up(self.norm2(x))).square())
        return out


class GPT(nn.Module):
    """Tokens (batch, time), int64, to logits (batch, time, vocabulary). `time` ≤ `context`."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.context = context
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self._initialise(layers)

    def _initialise(self, layers: int) -> None:
        """As GPT-2: normal with 0.02, smaller where a block adds to its input."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                adds = name.endswith(("mix.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if adds else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.token.weight)

    @torch.no_grad()
    def continued(self, tokens: Tensor, length: int, temperature: float) -> Tensor:
        """`tokens` (1, time) and `length` more, drawn with torch's global generator."""
        for _ in range(length):
            logits = self(tokens[:, -self.context :])[:, -1] / temperature
            drawn = torch.multinomial(F.softmax(logits, dim=-1), 1)
            tokens = torch.cat([tokens, drawn], dim=1)
        return tokens
