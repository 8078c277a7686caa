"""Whose view is an image's positive: its own, or a neighbour's (Huang et al. 2019; NNCLR, Dwibedi et al. 2021).

N images, B images in a batch, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Partners:
    """Pairs images with themselves, and from a certain step on a share of them with one of their neighbours.

    Args:
        seek: returns the neighbours (N, K) int64 of the moment.
        share: of a batch that is paired with neighbours, in [0, 1].
        first: number of the step with which that begins.
        every: steps after which the neighbours are sought anew.
    """

    def __init__(self, seek: Callable[[], Tensor], share: float, first: int, every: int) -> None:
        self.seek, self.share, self.first, self.every = seek, share, first, every
        self.neighbors: Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.neighbors is None else {"neighbors": self.neighbors}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.neighbors = state.get("neighbors")

    def due(self, number: int) -> bool:
        """Whether neighbours are sought anew in the step of this number, with what the step before it learned."""
        return self.share > 0 and number >= self.first and (number - self.first) % self.every == 0

    def of(self, rows: Tensor, number: int, draws: torch.Generator) -> Tensor:
        """(B,) int64 image numbers, the partners of `rows` (B,) int64 in the step of this number."""
        if self.share == 0 or number < self.first:
            return rows
        if self.neighbors is None or self.due(number):
            self.neighbors = self.seek()
        size, device = len(rows), rows.device
        drawn = torch.randint(self.neighbors.shape[1], (size,), generator=draws, device=device)
        swapped = torch.rand(size, generator=draws, device=device) < self.share
        return torch.where(swapped, self.neighbors[rows, drawn], rows)
