"""`causal-lm`: a compact GPT that predicts the next byte of a member's text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from barnraise.client.tasks.gpt import GPT
from barnraise.client.tasks.task import Split, option, within_reason
from barnraise.client.tasks.text import documents, joined, split_documents, text_files
from barnraise.protocols.errors import BarnraiseError

BYTES = 256


class Windows(Dataset[Tensor]):
    """Pieces of `span` bytes of a text, one starting every `stride` bytes: int64 (span,)."""

    def __init__(self, text: NDArray[np.uint8], span: int, stride: int) -> None:
        self._text = torch.from_numpy(text)
        self._span, self._stride = span, stride

    def __len__(self) -> int:
        return max(0, (len(self._text) - self._span) // self._stride + 1)

    def __getitem__(self, index: int) -> Tensor:
        start = index * self._stride
        return self._text[start : start + self._span].long()


class CausalLM:
    """Byte-level language modelling on directories of .txt .md .py .rst .jsonl files.

    The loss is cross-entropy in nats per byte. A document is a file, or a line of a .jsonl file;
    whether it is held out follows from the hash of its bytes alone.
    """

    record_kind, record_form = "document", "the document's bytes"

    def __init__(
        self,
        context: Annotated[int, option("bytes that a prediction may look back on", gt=0)] = 128,
        width: Annotated[int, option("of the model's vectors", gt=0)] = 96,
        layers: Annotated[int, option("transformer blocks", gt=0, le=1000)] = 3,
        heads: Annotated[int, option("attention heads; divides width", gt=0)] = 4,
        held_out: Annotated[float, option("part of the documents held out", gt=0, lt=1)] = 0.1,
    ) -> None:
        if width % heads:
            raise BarnraiseError(
                "C104",
                f"the charter: task.heads is {heads}, which does not divide task.width ({width})",
                next="correct [task] in the charter",
            )
        self.context, self.width, self.layers, self.heads = context, width, layers, heads
        self.held_out = held_out
        within_reason(self.parameters(), context=context, width=width)

    def parameters(self) -> int:
        """How many numbers the model has."""
        block = 12 * self.width**2 + 4 * self.width
        return (BYTES + self.context + 2) * self.width + self.layers * block

    def model(self) -> GPT:
        return GPT(BYTES, self.context, self.width, self.layers, self.heads)

    def data(self, directory: Path) -> Split:
        train, held_out = split_documents(directory, self.held_out)
        span = self.context + 1
        split = Split(Windows(joined(train), span, 1), Windows(joined(held_out), span, span - 1))
        if not all(split.sizes()):
            raise BarnraiseError(
                "D201",
                f"{directory} holds too little text",
                f"{sum(map(len, train))} bytes to train on and {sum(map(len, held_out))} held out; "
                f"each must be longer than the context of {self.context}",
                next="add documents, or lower task.context in the charter",
            )
        return split

    def records(self, directory: Path) -> Iterator[bytes]:
        """The documents."""
        return documents(directory)

    def files(self, directory: Path) -> Iterator[Path]:
        return text_files(directory)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Nats per byte."""
        logits = model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def metrics(self, model: nn.Module, batch: Tensor) -> Mapping[str, float]:
        """None: the loss says it all, and every further one would cost another pass."""
        return {}

    def sample(self, model: nn.Module, prompt: str, length: int) -> str:
        """`prompt` and `length` bytes more, at temperature 0.8; bytes that are no text become �."""
        assert isinstance(model, GPT)
        tokens = torch.tensor([list(prompt.encode())])
        drawn = model.continued(tokens, length, temperature=0.8)[0]
        return bytes(drawn.tolist()).decode(errors="replace")
