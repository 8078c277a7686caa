"""Whether a classifier's predictions still move, told by the ones it makes anyway while it trains.

N images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Movement:
    """Remembers what was last predicted of each image, and counts what changes, pass by pass.

    Random views make some predictions flicker however long a training goes on, so stillness is not the absence of
    change: predictions have stopped moving when as many change in the last quarter of all passes as in the quarter
    before. It is looked at after `settle` passes and whenever their number has doubled, seldom enough that chance does
    not end a training that still learns, however slowly.

    Args:
        n: N.
        batch_size: predictions that are noted in a step.
        steps: of the whole training.
        settle: passes over the images before the first look; 0 never looks.
        device: of the predictions.
    """

    def __init__(self, n: int, batch_size: int, steps: int, settle: int, device: torch.device) -> None:
        self.per_pass, self.settle = max(1, round(n / batch_size)), settle
        self._last = torch.full((n,), -1, dtype=torch.int64, device=device)
        self._changed = torch.zeros(steps // self.per_pass + 1, dtype=torch.int64, device=device)  # by pass

    def state_dict(self) -> dict[str, Tensor]:
        return {"last": self._last, "changed": self._changed}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    def note(self, number: int, rows: Tensor, predictions: Tensor) -> None:
        """Notes what is predicted in the step of this number, (B,) int64, of the images `rows`, (B,) int64."""
        self._changed[number // self.per_pass] += (self._last[rows] != predictions).sum()
        self._last[rows] = predictions

    def over(self, number: int) -> bool:
        """Whether predictions have stopped moving with the step of this number."""
        passes, within = divmod(number + 1, self.per_pass)
        looks = self.settle and passes % self.settle == 0 and (passes // self.settle).bit_count() == 1
        if within or not looks or passes < 4:
            return False
        quarter = passes // 4
        since, before = self._changed[passes - quarter : passes], self._changed[passes - 2 * quarter : passes - quarter]
        return bool(since.sum() >= before.sum())
