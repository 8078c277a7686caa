"""What runs under torchrun in the place of `spiceclust`: the command itself, watched.

    child.py FOLDER [--every K] [--silence S] [--seen] [--plain] -- fit ...

It writes the number of its process to FOLDER/pids/RANK. With `--every` a snapshot is due at every K-th step; with
`--silence` a process is missed after S seconds. With `--seen` it keeps what this rank sees, FOLDER/seen/RANK.jsonl: a
line for each batch of views. With `--plain` networks are without batch norm and in float32, so that nothing hangs on
how a batch is shared out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RANK = os.environ["RANK"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int)
    parser.add_argument("--silence", type=float)
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    (options.folder / "pids").mkdir(exist_ok=True)
    (options.folder / "pids" / RANK).write_text(str(os.getpid()))
    if options.plain:
        without_batch_norm()
    if options.every:
        snapshots_every(options.every)
    if options.silence:
        missed_after(options.silence)
    if options.seen:
        keep_what_is_seen(options.folder / "seen")

    from spiceclust.cli import main as command

    sys.argv = ["spiceclust", *options.words]
    command()


def without_batch_norm() -> None:
    """Every image is normalised on its own; and no bf16, whose sums depend on what is summed together."""

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(1, channels)

    nn.BatchNorm1d = nn.BatchNorm2d = norm  # type: ignore[assignment,misc]
    from spiceclust.training import context

    context.prefers_bf16 = lambda device: False


def snapshots_every(steps: int) -> None:
    from spiceclust.training.snapshots import Snapshots

    asked = [0]

    def due(snapshots: Snapshots) -> bool:
        asked[0] += 1
        return asked[0] % steps == 0

    Snapshots.due = due  # type: ignore[method-assign]


def missed_after(seconds: float) -> None:
    from spiceclust.training import distributed

    distributed.heard = partial(distributed.heard, beat=seconds / 10, silence=seconds)


def keep_what_is_seen(folder: Path) -> None:
    """A line for each call that makes views: kind, seed of its generator, how often that came, rows, images, views.

    An image and a view are a number each: a sum of the pixels with weights that are no two alike, exact for an image.
    """
    from spiceclust.data.views import Views

    folder.mkdir(exist_ok=True)
    file = (folder / f"{RANK}.jsonl").open("w", buffering=1)
    before: Counter[tuple[str, int]] = Counter()

    def told(tensor: Tensor) -> list[float]:
        flat = tensor.detach().double().flatten(1)
        return (flat @ torch.arange(1, flat.shape[1] + 1, dtype=torch.float64)).tolist()

    def watched(kind: str) -> Any:
        plain = getattr(Views, kind)

        def seen(views: Views, images: Tensor, generator: torch.Generator, share: Any = None) -> Tensor:
            made: Tensor = plain(views, images, generator, share)
            of, rows = share or (len(images), slice(0, len(images)))
            place = kind, generator.initial_seed()
            line = [*place, before[place], range(of)[rows].start, told(images), told(made)]
            before[place] += 1
            file.write(json.dumps(line) + "\n")
            return made

        return seen

    for kind in ("contrastive", "weak", "strong"):
        setattr(Views, kind, watched(kind))


if __name__ == "__main__":
    main()
