"""What a member adds to each step's gradient, at the asking of the charter or of the strategy.

A `Partner` acts after the gradient is clipped and before the optimizer steps, so it acts in full and
under any optimizer. Knows nothing of messages or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Partner(Protocol):
    """The client's half of a method."""

    def adjust(self, model: nn.Module) -> None:
        """Change the gradients of `model`'s parameters in place, once in each step."""
        ...


class Pull:
    """FedProx (arXiv 1812.06127): the proximal term mu/2 * |w - w0|^2, w0 being the round's model.

    g <- g + mu * (w - w0)
    """

    def __init__(self, model: nn.Module, mu: float) -> None:
        self._mu = mu
        self._anchors = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def adjust(self, model: nn.Module) -> None:
        for parameter, anchor in zip(model.parameters(), self._anchors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self._mu)


class Variates:
    """SCAFFOLD (arXiv 1910.06378): the member's drift is corrected by control variates.

        g <- g - c_i + c                    in each of K steps
        c_i+ = mean of the K gradients g    as they were before the correction

    c is the federation's variate, c_i the member's own, zero at first. Under plain SGD at a constant rate
    c_i+ is the paper's second option, c_i - c + (x - y) / (K * lr); the mean of gradients says the same
    under any optimizer and any rate. Tensors by parameter name, of the parameters' shapes.
    """

    def __init__(self, federation: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        self._shift = {name: c - own[name] if name in own else c for name, c in federation.items()}
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    @torch.no_grad()
    def adjust(self, model: nn.Module) -> None:
        self._steps += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is None or name not in self._shift:
                continue
            if name in self._sums:
                self._sums[name] += parameter.grad
            else:
                self._sums[name] = parameter.grad.clone()
            parameter.grad += self._shift[name].to(parameter.grad)

    def own(self) -> dict[str, Tensor]:
        """c_i+ of the parameters that had a gradient. Call it after the last step."""
        return {name: total / self._steps for name, total in self._sums.items()}
