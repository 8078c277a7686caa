"""Whether heat maps lie on what decides: digits at random places of a noisy canvas, alone and in pairs.

python benchmarks/localisation.py --data DIR

A classifier of the shipped form learns these digits from their true labels for two minutes: what is measured is where
it is said to look, not whether it found the classes by itself. n images of S pixels a side.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import about, write_results
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from spiceclust import localisation
from spiceclust.functional.localisation import combined
from spiceclust.functional.novelty import Reference
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, ClusterHeads
from spiceclust.shipped import Model

CLASSES = (0, 1, 2, 4, 7)
SIDE, LEAST, MOST = 32, 14, 18  # of the canvas, and of a digit on it
SHARPNESS = 10  # of the logits while it learns, as their input has length 1

Places = NDArray[np.bool_]


def draw(folder: Path, part: str, n: int, digits: int, seed: int) -> tuple[Tensor, NDArray[np.int64], Places]:
    """(n, 1, S, S) uint8 images, (n, digits) the classes on each, all different, (n, digits, S, S) boxes of the ink."""
    with np.load(folder / f"mnist_{part}.npz") as held:
        pictures, names = (next(held[name] for name in held if held[name].ndim == rank) for rank in (3, 1))
    rng, found = np.random.default_rng(seed), []
    while len(found) < n:
        canvas, boxes = rng.normal(70, 40, (SIDE, SIDE)), np.zeros((digits, SIDE, SIDE), dtype=bool)
        classes = rng.choice(len(CLASSES), digits, replace=False)
        for box, kind in zip(boxes, classes, strict=True):
            side = int(rng.integers(LEAST, MOST + 1))
            picture = Image.fromarray(pictures[rng.choice(np.flatnonzero(names == CLASSES[kind]))])
            y, x = rng.integers(0, SIDE - side + 1, 2)
            ink = np.zeros((SIDE, SIDE))
            ink[y : y + side, x : x + side] = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)) / 255
            canvas = canvas * (1 - ink) + 235 * ink
            rows, columns = np.nonzero(ink > 0.4)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        if boxes.sum(axis=0).max() == 1:  # none lies on another
            found.append((np.clip(canvas, 0, 255).astype(np.uint8), classes, boxes))
    images, classes, boxes = (np.stack(each) for each in zip(*found, strict=True))
    return torch.from_numpy(images)[:, None], classes, boxes


def learn(images: Tensor, classes: Tensor, epochs: int, seed: int) -> Model:
    encoder = build_encoder("resnet_small", 1, SIDE, [0.3], [0.2], seed)
    classifier = Classifier(encoder, ClusterHeads(1, encoder.n_features, len(CLASSES), seed).extract(0))
    optimizer = torch.optim.SGD(classifier.parameters(), 0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(images) // 64
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(0, len(images), (64,), generator=generator)
        loss = F.cross_entropy(SHARPNESS * classifier(images[rows].float() / 255), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    none = Reference(torch.zeros(0, encoder.n_features), torch.zeros(0))
    return Model(classifier.eval(), none, SIDE, 1, torch.device("cpu"), "")


def maps(model: Model, images: Tensor, classes: NDArray[np.int64], stage: int | None) -> NDArray[np.float32]:
    """(n, S, S): of all stages together, as it ships, or of one of them alone, as finely drawn."""
    try:
        if stage is not None:
            localisation.combined = lambda stages: combined([torch.ones_like(stages[0]), stages[stage]])
        found = torch.from_numpy(localisation.heat(model, images, torch.from_numpy(classes)))
    finally:
        localisation.combined = combined
    return np.asarray(F.interpolate(found[:, None], size=SIDE, mode="bilinear")[:, 0].numpy())


def within(heat: NDArray[np.float32], box: Places) -> float:
    """The mean share of an image's heat that lies in its box; an image without heat counts with its box's area."""
    inside, total = (heat * box).sum(axis=(1, 2)), heat.sum(axis=(1, 2))
    return float(np.where(total > 0, inside / np.maximum(total, 1e-12), box.mean(axis=(1, 2))).mean())


def points(heat: NDArray[np.float32], box: Places) -> float:
    """The share of images whose hottest place lies in the box: the pointing game (Zhang et al. 2018)."""
    hottest = heat.reshape(len(heat), -1).argmax(axis=1)
    return float(box.reshape(len(box), -1)[np.arange(len(box)), hottest].mean())


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist_train.npz and mnist_test.npz")
    parser.add_argument("--images", type=int, default=3000, help="to learn from")
    parser.add_argument("--tested", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    images, classes, _ = draw(options.data, "train", options.images, 1, options.seed)
    model = learn(images, torch.from_numpy(classes[:, 0]), options.epochs, options.seed)
    single, of_single, box = draw(options.data, "test", options.tested, 1, options.seed + 1)
    pairs, of_pairs, boxes = draw(options.data, "test", options.tested, 2, options.seed + 2)
    accuracy = float((model.classify(single)[0].argmax(dim=1).numpy() == of_single[:, 0]).mean())
    away = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    centre = np.exp(-(away**2).sum(axis=0) / (2 * (SIDE / 4) ** 2)).astype(np.float32)
    rows: dict[str, dict[str, Any]] = {}
    stages = {
        "last stage alone (Grad-CAM)": 2,
        "middle stage alone": 1,
        "finest stage alone": 0,
        "all three, as shipped": None,
    }
    for name in ["the middle of the image", *stages]:

        def find(chosen: Tensor, kinds: NDArray[np.int64], name: str = name) -> NDArray[np.float32]:
            known = name in stages
            return maps(model, chosen, kinds, stages[name]) if known else np.repeat(centre[None], len(chosen), axis=0)

        heat, asked = find(single, of_single[:, 0]), [find(pairs, of_pairs[:, which]) for which in (0, 1)]
        own, other = (np.mean([(asked[i] * boxes[:, i ^ flip]).sum() for i in (0, 1)]) for flip in (0, 1))
        rows[name] = {
            "within": within(heat, box[:, 0]),
            "points": points(heat, box[:, 0]),
            "own": float(own / (own + other)),
            "points_own": float(np.mean([points(asked[i], boxes[:, i]) for i in (0, 1)])),
            "points_other": float(np.mean([points(asked[i], boxes[:, 1 - i]) for i in (0, 1)])),
        }
    lines = [about("Localisation", "python benchmarks/localisation.py --data DIR"), ""]
    lines += [
        f"{options.tested} canvases with one digit, whose box takes {box.mean():.3f} of the area, and "
        f"{options.tested} with two of different classes. The "
        f"classifier (labels, {options.epochs} epochs) is right about {accuracy:.3f} of the single ones.",
        "",
        "| heat | in the box | points into it | pairs: share on the class asked for | points at it | at the other |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |" for name, row in rows.items()
    ]
    values = {"accuracy": accuracy, "area": float(box.mean()), "ways": rows}
    write_results(options.out / "localisation", "\n".join(lines) + "\n", values)


if __name__ == "__main__":
    main()
