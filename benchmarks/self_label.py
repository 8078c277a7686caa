"""SPICE-Self on V cached views against the published schedule, which sends every view through the encoder anew.

    python benchmarks/self_label.py --data DIR --sets digits mnist_test --seeds 3

Heads, rounds and passes are the same; what differs is whether a view is new each time (`fresh`) or one of V that are
embedded once. Accuracy is that of the head that is kept without labels, and the mean of all ten heads; encoder passes
are counted, images sent through the encoder by the images of the set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _datasets import load
from _report import about, commit, write_results
from numpy.typing import NDArray
from torch import Tensor, nn

from spiceclust.config import FitConfig, image_size, make_request, resolve
from spiceclust.data.domain import choose_domain
from spiceclust.data.images import load as load_images
from spiceclust.data.sources import open_source
from spiceclust.data.views import Views
from spiceclust.facts import facts_of
from spiceclust.files import read_json, sha256_json, write_json
from spiceclust.functional.metrics import score_clusters
from spiceclust.models.encoders import Encoder
from spiceclust.progress import Plain, Silent
from spiceclust.stages import embed, pretrain, self_label
from spiceclust.training.checkpoint import run_stage
from spiceclust.training.context import Context, open_context
from spiceclust.training.features import features_of
from spiceclust.training.lanes import open_lanes

FRESH = 0
VIEWS = (1, 2, 4, 8, 16, FRESH)


class Passes:
    """Counts the images that go through a module while it is entered."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.batches: list[int] = []  # appended to by two lanes

    def __enter__(self) -> Passes:
        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.batches.append(len(inputs[0]))

        self.hook = self.module.register_forward_pre_hook(count)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """By number of views: accuracies, passes and seconds, on one stage 1. What the same commit has done is kept."""
    images, classes = load(name, options.data)
    overrides = json.loads(options.config.read_text("utf-8")) if options.config else {}
    overrides["self_label"] = {**overrides.get("self_label", {}), "passes": options.passes}
    request = make_request(n_clusters=len(np.unique(classes)), seed=seed, method="spice-paper", overrides=overrides)
    source, context = open_source(images), open_context(seed, "auto", Plain())
    native = source.native_size()
    read = load_images(source, image_size(request, native), None, Silent())
    pixels = torch.from_numpy(read.pixels)
    config = resolve(request, facts_of(read, native, choose_domain(pixels), source.benchmark, None))
    pixels = pixels.to(context.device)
    classes = classes[[row.status == "ok" for row in read.rows]]
    key = sha256_json([options.version, config.model_dump()])
    folder = options.runs / f"{name}-{seed}-{key[:8]}"
    found = {}
    with open_lanes(context.device) as lanes:
        context = replace(context, lanes=lanes)
        learned = run_stage(folder / "1-pretrain", key, context.device, lambda: pretrain.run(pixels, config, context))
        encoder = pretrain.new_encoder(pixels, config, context).to(context.device)
        encoder.load_state_dict(dict(learned.artefact.tensors))
        for views in options.views:
            noted = folder / f"{views}.json"
            if not noted.exists() or options.version.endswith("-dirty"):
                settings = config.model_copy(update={"embed": config.embed.model_copy(update={"cached_views": views})})
                write_json(noted, _label(encoder, pixels, settings, replace(context, progress=Silent()), classes))
            found[views] = read_json(noted)
            print(name, seed, views, found[views], flush=True)
    return found


def _label(
    encoder: Encoder, pixels: Tensor, config: FitConfig, context: Context, classes: NDArray[np.int64]
) -> dict[str, float]:
    """Embeds and labels once."""
    with Passes(encoder) as passes:
        start = time.perf_counter()
        embedded = embed.run(pixels, encoder, config, context)
        features = features_of(embedded, pixels, encoder, Views(config.views), context)
        labelled = self_label.run(features, config, context)
        seconds = time.perf_counter() - start
    heads = [score_clusters(head.cpu().numpy(), classes).acc for head in labelled.tensors["head_labels"]]
    scores = {"acc": heads[labelled.facts["kept"]], "mean": statistics.mean(heads)}
    return {**scores, "seconds": seconds, "passes": sum(passes.batches) / len(pixels)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the data sets' files")
    parser.add_argument("--sets", nargs="+", default=["digits"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, nargs="+", default=VIEWS, help="V; 0: fresh ones")
    parser.add_argument("--passes", type=int, default=1, help="over one meta-batch's pseudo-labels; published: several")
    parser.add_argument("--config", type=Path, help="JSON file whose fields override the preset's")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/self_label"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    options.version = commit()  # that of the code which runs, whatever comes meanwhile
    for name in options.sets:
        found = []
        for seed in range(options.seeds):
            found.append(measure(name, seed, options))
            head = about(
                f"SPICE-Self on cached views: {name}", command(name, options), version=options.version, device="auto"
            )
            if options.config:
                head += f"\n\nPreset quick with {options.config.read_text('utf-8').strip()}."
            write_results(options.out / f"self_label-{name}", report(head, found), {"about": head, "seeds": found})


def command(name: str, options: argparse.Namespace) -> str:
    """What reproduces the figures; files and folders are those of the reader."""
    config = f" --config {options.config.name}" if options.config else ""
    words = f"--data DIR --sets {name} --seeds {options.seeds} --passes {options.passes}"
    words += f" --views {' '.join(map(str, options.views))}" if options.views != VIEWS else ""
    return f"python benchmarks/self_label.py {words}{config}"


def report(head: str, seeds: list[dict[int, dict[str, float]]]) -> str:
    """Markdown: a line for each number of views."""
    lines = [head, "", "Mean ± standard deviation over seeds; differences are to fresh views of the same seed.", ""]
    names = ("views", "seeds", "kept head", "difference", "mean of all heads", "difference")
    lines += [f"| {' | '.join(names)} | encoder passes an image | seconds |", "|---" * 8 + "|"]
    for views in dict.fromkeys(views for seed in seeds for views in seed):
        those = [seed for seed in seeds if views in seed]
        cells = [f"{views} cached" if views else "fresh", str(len(those))]
        for key in ("acc", "mean"):
            values = np.array([seed[views][key] for seed in those])
            apart = [seed[views][key] - seed[FRESH][key] for seed in those if FRESH in seed]
            cells += [f"{values.mean():.3f} ± {values.std():.3f}"]
            cells += [f"{np.mean(apart):+.3f} ± {np.std(apart):.3f}" if apart else ""]
        cells += [f"{np.mean([seed[views][key] for seed in those]):,.0f}" for key in ("passes", "seconds")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
