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
        images: (N, channels, S, S) uint8 in host memory.
        device: where batches are wanted.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images, self.device = images, device
        self.shape = images.shape
        self._gatherer = ThreadPoolExecutor(1, "gather")
        self._expected: list[tuple[Tensor, Future[Tensor]]] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Tensor:
        """The images of an index, on the device; (B,) int64 numbers may lie on the device themselves."""
        if not isinstance(index, Tensor):
            return self.images[index].to(self.device)
        for place, (rows, gathered) in enumerate(self._expected):
            if rows is index:
                del self._expected[: place + 1]
                return gathered.result().to(self.device, non_blocking=True)
        return self._gather(index).to(self.device, non_blocking=True)

    def expect(self, rows: Tensor) -> None:
        """Announces that the very tensor `rows`, (B,) int64 numbers, is the index of a batch to come."""
        self._expected.append((rows, self._gatherer.submit(self._gather, rows)))

    def _gather(self, rows: Tensor) -> Tensor:
        found = self.images[rows.cpu()]
        return found.pin_memory() if self.device.type == "cuda" else found


Pixels = Tensor | HostPixels


def place(images: Tensor, device: torch.device) -> Pixels:
    """Puts images where a training wants them: on the device if they take at most half of its free memory.

    Args:
        images: (N, channels, S, S) uint8 in host memory.
        device: where the run computes.
    """
    if device.type == "cpu":
        return images
    if device.type == "cuda" and images.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return HostPixels(images, device)
    return images.to(device)
