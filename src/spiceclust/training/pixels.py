"""Where the images of a run lie: on the device, or in host memory when they do not fit there.

N images, B images in a batch.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

SHARE = 0.5  # of the device's free memory that images may take; the rest is for the training


class HostPixels:
    """Images in host memory that are indexed as if they lay on the device; expected batches are gathered ahead.

    A batch that was announced with `expect` is gathered by a thread into page-locked memory while the device computes,
    and crosses over when it is asked for.

    Args:
        images: (N, channels, S, S) uint8 in host memory, or mapped from a file.
        device: where batches are wanted.
        more: images that follow them, in a tensor of their own so that nothing is copied.
    """

    def __init__(self, images: Tensor, device: torch.device, *more: Tensor) -> None:
        self.parts, self.device = (images, *more), device
        self.shape = torch.Size((sum(map(len, self.parts)), *images.shape[1:]))
        self._gatherer = ThreadPoolExecutor(1, "gather")
        self._expected: list[tuple[Tensor, Future[Tensor]]] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        """The images of a slice, or of (B,) int64 numbers, which may lie on the device; on the device."""
        if not isinstance(index, Tensor):
            rows = range(len(self))[index]
            return self._gather(torch.arange(rows.start, rows.stop, rows.step)).to(self.device, non_blocking=True)
        for place, (rows, gathered) in enumerate(self._expected):
            if rows is index:
                del self._expected[: place + 1]
                return gathered.result().to(self.device, non_blocking=True)
        return self._gather(index).to(self.device, non_blocking=True)

    def expect(self, rows: Tensor) -> None:
        """Announces that the very tensor `rows`, (B,) int64 numbers, is the index of a batch to come."""
        self._expected.append((rows, self._gatherer.submit(self._gather, rows)))

    def _gather(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        found = self.parts[0][rows] if len(self.parts) == 1 else self._from_parts(rows)
        return found.pin_memory() if self.device.type == "cuda" else found

    def _from_parts(self, rows: Tensor) -> Tensor:
        found, start = torch.empty((len(rows), *self.shape[1:]), dtype=self.parts[0].dtype), 0
        for part in self.parts:
            inside = (start <= rows) & (rows < start + len(part))
            found[inside] = part[rows[inside] - start]
            start += len(part)
        return found


Pixels = Tensor | HostPixels


def place(images: Tensor, device: torch.device, *more: Tensor) -> Pixels:
    """Puts images where a training wants them: on the device if they take at most half of its free memory.

    Args:
        images: (N, channels, S, S) uint8 in host memory, or mapped from a file.
        device: where the run computes.
        more: images that follow them.
    """
    if device.type == "cpu":
        return HostPixels(images, device, *more) if more else images
    parts = (images, *more)
    if device.type == "cuda" and sum(part.nbytes for part in parts) > SHARE * torch.cuda.mem_get_info(device)[0]:
        return HostPixels(images, device, *more)
    return torch.cat([part.to(device) for part in parts]) if more else images.to(device)
