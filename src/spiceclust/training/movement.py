"""Whether a classifier's predictions still move, told by the ones it makes anyway while it trains.

N images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WINDOW = 20  # passes over the images that are compared with as many before them


class Movement:
    """Remembers what was last predicted of each image, and counts what changes, pass by pass.

    Random views make some predictions flicker however long a training goes on, so stillness is not the absence of
    change: predictions have stopped moving when as many change in the last 20 passes as in the 20 before.

    Args:
        n: N.
        per_pass: training steps in which about N predictions are noted.
        device: of the predictions.
    """

    def __init__(self, n: int, per_pass: int, device: torch.device) -> None:
        self.per_pass = max(1, per_pass)
        self._last = torch.full((n,), -1, dtype=torch.int64, device=device)
        self._changed = torch.zeros(2 * WINDOW, dtype=torch.int64, device=device)  # by pass, the newest last
        self._passes = torch.zeros((), dtype=torch.int64, device=device)

    def state_dict(self) -> dict[str, Tensor]:
        return {"last": self._last, "changed": self._changed, "passes": self._passes}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    def note(self, rows: Tensor, predictions: Tensor) -> None:
        """Notes what is predicted, (B,) int64, of the images of the numbers `rows`, (B,) int64."""
        self._changed[-1] += (self._last[rows] != predictions).sum()
        self._last[rows] = predictions

    def over(self, number: int) -> bool:
        """Whether predictions have stopped moving; to be asked after each step, and looked into after each pass."""
        if (number + 1) % self.per_pass:
            return False
        self._passes += 1
        before, since = (int(part.sum()) for part in self._changed.view(2, WINDOW))
        still = int(self._passes) > 2 * WINDOW and since >= before  # in the first pass everything was new
        self._changed.copy_(self._changed.roll(-1))
        self._changed[-1] = 0
        return still
