"""Images per second of MoCo pretraining: ours against the `lightly` package with its usual data loader.

    pip install lightly==1.6.0 torchvision==0.28.0
    python benchmarks/pretrain.py

Network, image size, batch, queue and number of threads are the same, and so are the kinds of change to an image (crop,
flip, colour, grey). Lightly reads PNG files and makes views in two worker processes, as its tutorial does. The two take
turns; a ratio is that of two neighbouring runs. Ours runs in bf16 where that is native, lightly in float32 as in its
tutorial. The search for neighbours, which a whole training does a few times, is left out.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import about, write_results
from PIL import Image
from torch import Tensor, nn

from spiceclust.config import Facts, FitConfig, make_request, resolve
from spiceclust.stages import pretrain
from spiceclust.training.context import Context, open_context
from spiceclust.training.lanes import open_lanes

CASES = [("resnet_small", 32, 64), ("resnet18", 32, 64)]  # network, side, batch


def made(n: int, side: int) -> Tensor:
    """(n, 3, side, side) uint8: smooth random pictures, so that a PNG of one is as large as that of a photograph."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((n, 3, max(2, side // 4), max(2, side // 4)), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noise = torch.randn(smooth.shape, generator=generator) * 0.05
    return ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)


def configured(network: str, side: int, batch: int, n: int, steps: int) -> FitConfig:
    overrides = {"pretrain": {"batch_size": batch, "epochs": max(1, steps * batch // n), "neighbor_share": 0.0}}
    request = make_request(
        n_clusters=10, views="natural", image_size=side, overrides={"backbone": network, **overrides}
    )
    return resolve(request, Facts(n_images=n, native_size=side, channels=3, domain="natural"))


def ours(images: Tensor, config: FitConfig, context: Context) -> float:
    """Images per second of stage 1."""
    start = time.perf_counter()
    with open_lanes(context.device) as lanes:
        steps = pretrain.run(images, config, replace(context, lanes=lanes)).facts["steps"]
    return float(steps * config.pretrain.batch_size / (time.perf_counter() - start))


def lightly_loop(images: Tensor, config: FitConfig, folder: Path, workers: int) -> Callable[[], float]:
    """MoCo v2 as lightly's tutorial writes it, on files in `folder`; returns what measures images per second."""
    declare_schemas()
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import MoCoV2Transform

    settings, side = config.pretrain, config.image_size
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number:05}.png")
    transform = MoCoV2Transform(input_size=side, gaussian_blur=0.0)  # ours has no blur at this size either
    dataset = LightlyDataset(input_dir=str(folder), transform=transform)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=settings.batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    context = open_context(0, "cpu", None)

    def measure() -> float:
        encoder = pretrain.new_encoder(images, config, context).train()
        head = MoCoProjectionHead(encoder.n_features, 4 * encoder.n_features, settings.projection_dim, batch_norm=True)
        encoder_key, head_key = copy.deepcopy(encoder), copy.deepcopy(head)
        deactivate_requires_grad(encoder_key)
        deactivate_requires_grad(head_key)
        loss_of = NTXentLoss(settings.temperature, memory_bank_size=(settings.queue_size, settings.projection_dim))
        parameters = [*encoder.parameters(), *head.parameters()]
        optimizer = torch.optim.SGD(parameters, settings.learning_rate, momentum=0.9, weight_decay=5e-4)
        seen, start = 0, time.perf_counter()
        for _ in range(settings.epochs):
            for batch in loader:
                query, key = batch[0]
                update_momentum(encoder, encoder_key, m=settings.key_momentum)
                update_momentum(head, head_key, m=settings.key_momentum)
                queries = head(encoder(query).flatten(start_dim=1))
                with torch.no_grad():
                    keys = head_key(encoder_key(key).flatten(start_dim=1))
                loss = loss_of(queries, keys)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += len(query)
        return seen / (time.perf_counter() - start)

    return measure


def declare_schemas() -> None:
    """Names two operators that torchvision looks for when it is imported, and that torch without CUDA lacks."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declared.append(library)  # what is collected is forgotten


declared: list[torch.library.Library] = []


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--steps", type=int, nargs="+", default=[256, 64], help="of each case")
    parser.add_argument("--workers", type=int, default=2, help="processes of lightly's loader")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    rows: list[dict[str, Any]] = []
    for (network, side, batch), steps in zip(CASES, options.steps, strict=True):
        images = made(min(options.images, steps * batch), side)
        config = configured(network, side, batch, len(images), steps)
        context = open_context(0, "cpu", None)
        with tempfile.TemporaryDirectory() as folder:
            theirs = lightly_loop(images, config, Path(folder), options.workers)
            pairs = [(ours(images, config, context), theirs()) for _ in range(options.repeats + 1)][1:]
        rows.append({"network": network, "side": side, "batch": batch, "bf16": context.bf16, "pairs": pairs})
        print(rows[-1], flush=True)
    write_results(options.out / "pretrain", report(rows, options), {"cases": rows})


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    steps = " ".join(map(str, options.steps))
    lines = [about("MoCo pretraining", f"python benchmarks/pretrain.py --steps {steps}"), ""]
    lines += [f"Images per second, medians of {options.repeats} alternating runs after one to warm up.", ""]
    lines += ["| network | side | batch | ours in bf16 | ours | lightly | ratio | least | most |", "|---" * 9 + "|"]
    for row in rows:
        mine, theirs = np.array(row["pairs"]).T
        ratios = (mine / theirs).tolist()
        cells = [row["network"], str(row["side"]), str(row["batch"]), "yes" if row["bf16"] else "no"]
        cells += [f"{statistics.median(mine):,.0f}", f"{statistics.median(theirs):,.0f}"]
        cells += [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
