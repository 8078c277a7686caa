"""CIFAR through all stages on one GPU, in calls that end by the clock and go on where the last one stopped.

    python benchmarks/gpu_cifar.py --data DIR --set cifar10 --minutes 8.5      # again, until it says: done

Prints the rate of stage 1 (kNN looks count as time), in the end as a share of a matrix product's too,
kNN accuracy (20 neighbours, training images vote on test images) as stage 1 goes on, accuracy of each stage, memory.
Labels are read for these prints alone. `--images` and `--epochs` make it small enough for a CPU.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _datasets import load
from _report import about, write_results
from accuracy import load_tensor, score_run
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from spiceclust import course, pipeline
from spiceclust.config import FitConfig, make_request
from spiceclust.data.images import load as load_images
from spiceclust.data.sources import open_source
from spiceclust.files import read_json, write_json
from spiceclust.progress import Silent, Task
from spiceclust.stages import pretrain
from spiceclust.training.context import Context, open_context, open_device
from spiceclust.training.inference import embed_images
from spiceclust.training.snapshots import Kept, Snapshots

TEST_SHARE = 6  # CIFAR's last sixth is its test set
NEIGHBORS, KNN_TEMPERATURE = 20, 0.1


class Deadline(BaseException):
    """The time of this call is over."""


class Watch:
    """A progress that prints rates, looks at stage 1 now and then, and ends the call by the clock."""

    def __init__(self, minutes: float, batch_size: int, look: Any, looks: int) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.batch_size, self.look, self.looks = batch_size, look, looks

    def say(self, text: str) -> None:
        print(text, flush=True)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        self.name, self.total, self.done, self.printed = name, total, 0, 0
        self.since = self.told = time.monotonic()
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        now = time.monotonic()
        self.done += steps
        if now - self.told > 15 or self.done == self.total:
            rate = (self.done - self.printed) / max(now - self.since, 1e-9)
            images = f", {rate * self.batch_size:,.0f} images/s" if self.name.startswith("1 ") else ""
            print(f"{self.name}: {self.done}/{self.total}, {rate:.1f} steps/s{images} {note}", flush=True)
            self.since, self.printed, self.told = now, self.done, now
        looked, due = (done * self.looks // self.total for done in (self.done - steps, self.done))
        if self.name.startswith("1 ") and due > looked:
            self.look()
            self.since, self.printed = time.monotonic(), self.done
        if self.over():
            raise Deadline

    def over(self) -> bool:
        """Whether the call should end; what comes before the stages is not kept, and so not cut."""
        return self.name[0].isdigit() and time.monotonic() > self.end


def knn_accuracy(embeddings: Tensor, classes: Tensor) -> float:
    """Accuracy of the last sixth by the weighted votes of its 20 nearest in the rest (Wu et al. 2018)."""
    split = len(classes) - len(classes) // TEST_SHARE
    right = 0
    for part, truth in zip(embeddings[split:].split(1000), classes[split:].split(1000), strict=True):
        cosines, near = (part @ embeddings[:split].T).topk(min(NEIGHBORS, split), dim=1)
        votes = F.one_hot(classes[near], int(classes.max()) + 1) * (cosines / KNN_TEMPERATURE).exp().unsqueeze(2)
        right += int((votes.sum(dim=1).argmax(dim=1) == truth).sum())
    return right / (len(classes) - split)


def embed_snapshot(folder: Path, pixels: Tensor, config: FitConfig, context: Context) -> tuple[int, Tensor] | None:
    """The step and the embeddings of the newest snapshot of stage 1, or of the finished stage."""
    encoder = pretrain.new_encoder(pixels, config, context).to(context.device)
    stage = folder / "1-pretrain"
    if (stage / "done.json").exists():
        state = {name: torch.from_numpy(load_tensor(stage, name)) for name in encoder.state_dict()}
        step = int(read_json(stage / "facts.json")["steps"])
    else:
        files = sorted(
            (folder / course.SNAPSHOTS / "1-pretrain").glob("1-pretrain*.json"), key=lambda f: read_json(f)["step"]
        )
        if not files:
            return None
        key = read_json(files[-1])["key"]
        names = {f"average.0.{name}": tensor.clone() for name, tensor in encoder.state_dict().items()}
        kept = Kept(**names)
        snapshots = Snapshots(files[-1].parent, key, context.device)
        step, _ = snapshots.restore("1 pretrain (MoCo v2)", {"key": kept})
        state = {name.removeprefix("average.0."): tensor for name, tensor in kept.tensors.items()}
    encoder.load_state_dict(state)
    encoder.eval()
    return step, embed_images(encoder, pixels, lambda batch, _: batch.float() / 255, context)


def matmul_peak(device: torch.device, bf16: bool) -> float:
    """Measured operations per second of a large matrix product in the number format of training."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn((size, size), device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def operations_per_image(pixels: Tensor, config: FitConfig, context: Context) -> float:
    """Of a step of stage 1: forward and backward of the query, forward of the key."""
    encoder = pretrain.new_encoder(pixels, config, context)
    with FlopCounterMode(display=False) as forward:
        encoder(pixels[:1].cpu().float() / 255)
    return 4.0 * forward.get_total_flops()


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the data sets' files")
    parser.add_argument("--set", default="cifar10", help="cifar10 or cifar100_20")
    parser.add_argument("--minutes", type=float, default=8.5, help="when this call ends")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--images", type=int, help="only so many, evenly from all")
    parser.add_argument("--looks", type=int, default=20, help="times that kNN accuracy is measured")
    parser.add_argument("--method", default="spice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="JSON file with further overrides")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile; heads as CUDA graphs")
    parser.add_argument("--version", default="", help="of the code, where it lies outside git")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/gpu"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)

    images, classes = load(options.set, options.data)
    if options.images:
        rows = np.linspace(0, len(images) - 1, options.images).astype(int)
        images, classes = images[rows], classes[rows]
    overrides: dict[str, Any] = {"pretrain": {"epochs": options.epochs, "batch_size": options.batch_size}}
    if options.config:
        given = read_json(options.config)
        overrides = {**given, "pretrain": {**overrides["pretrain"], **given.get("pretrain", {})}}
    asked = {"preset": "standard", "method": options.method, "seed": options.seed, "overrides": overrides}
    request = make_request(n_clusters=len(np.unique(classes)), **asked)
    folder = options.runs / f"{options.set}-{options.method}-{options.seed}"
    device = open_device(options.device)
    seen: dict[int, float] = {}

    def look() -> None:
        """Prints kNN accuracy; before the folder knows its config there is nothing to look at."""
        config = FitConfig(**read_json(folder / "run.json")["config"])
        context = open_context(options.seed, options.device, Silent())
        there = load_images(open_source(images), config.image_size, None, Silent())
        pixels = torch.from_numpy(there.pixels).to(device)
        found = embed_snapshot(folder, pixels, config, context)
        if found is None or found[0] in seen:
            return
        true = torch.from_numpy(classes[[row.status == "ok" for row in there.rows]]).to(device)
        seen[found[0]] = knn_accuracy(found[1], true)
        epoch = found[0] * config.pretrain.batch_size / len(pixels)
        print(f"epoch {epoch:.0f}: kNN {seen[found[0]]:.4f}", flush=True)
        notes = folder / "knn.json"
        write_json(notes, {**(read_json(notes) if notes.exists() else {}), f"{epoch:.0f}": seen[found[0]]})

    watch = Watch(options.minutes, options.batch_size, look, options.looks)
    try:
        result = pipeline.fit(
            open_source(images), request, folder, device=options.device, progress=watch, compile=options.compile
        )
    except Deadline:
        print(f"the {options.minutes} minutes are over: give the same command again", flush=True)
        return
    look()
    config, context = FitConfig(**result.run["config"]), open_context(options.seed, options.device, Silent())
    peak = matmul_peak(device, context.bf16)
    sample = load_images(open_source(images[:64]), config.image_size, None, Silent()).pixels
    share = operations_per_image(torch.from_numpy(sample), config, context) / peak
    seconds = result.run["seconds"]
    rate = read_json(folder / "1-pretrain" / "facts.json")["steps"] * config.pretrain.batch_size / seconds["1-pretrain"]
    rows = score_run(options.method, result, folder, classes)
    head = about(f"{options.set} on one GPU", command(options), version=options.version, device=options.device)
    kind, knn = "bf16" if context.bf16 else "float32", read_json(folder / "knn.json")
    lines = [head, "", f"{len(images):,} images, {config.backbone}, {config.pretrain.epochs} epochs.", ""]
    lines += [f"- stage 1: {rate:,.0f} images/s over all of its time"]
    lines += [
        f"- {100 * rate * share:.0f} % of the {peak / 1e12:.1f} TFLOP/s ({kind}) that a large matrix product reaches"
    ]
    lines += [f"- seconds of the stages: {', '.join(f'{name} {each:.0f}' for name, each in seconds.items())}"]
    if device.type == "cuda":
        lines += [f"- peak memory of the last call: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"]
    lines += [f"- kNN accuracy by epoch: {', '.join(f'{epoch}: {value:.4f}' for epoch, value in knn.items())}", ""]
    lines += ["| method | ACC | NMI | ARI |", "|---|---|---|---|"]
    lines += [f"| {name} | {row['acc']:.3f} | {row['nmi']:.3f} | {row['ari']:.3f} |" for name, row in rows.items()]
    values = {"rows": rows, "seconds": seconds, "rate": rate, "peak": peak, "knn": knn}
    write_results(options.out / f"gpu-{options.set}", "\n".join(lines) + "\n", values)
    print("done")


def command(options: argparse.Namespace) -> str:
    """What reproduces the figures; files and folders are those of the reader."""
    words = ["python", "benchmarks/gpu_cifar.py", "--data", "DIR"]
    for name in ("set", "epochs", "batch_size", "images", "looks", "method", "seed", "device"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    words += ["--compile"] if options.compile else []
    return shlex.join([*words, *(["--config", options.config.name] if options.config else [])])


if __name__ == "__main__":
    main()
