"""The stages in order, each in its own folder of the run; what is done and unchanged is skipped.

Where several processes train together, all of them go through the same course: what is trained or embedded they do
together, the rest the leader does and hands on. N distinct readable images, C clusters.
"""

from __future__ import annotations

import copy
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spiceclust.config import FitConfig
from spiceclust.data.images import Images
from spiceclust.data.views import Views
from spiceclust.embeddings import RECORDED, write_embeddings
from spiceclust.errors import RunFolderError
from spiceclust.files import sha256_json
from spiceclust.functional.plane import place_in_plane
from spiceclust.given import Given
from spiceclust.models.encoders import Encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.outcome import result_of
from spiceclust.progress import clock
from spiceclust.result import Result
from spiceclust.shipped import VERSION, save_model
from spiceclust.stages import calibrate, confident, embed, graph_label, guard, pretrain, scan, select, self_label, semi
from spiceclust.training import collapse
from spiceclust.training.checkpoint import Artefact, Finished, bundle, part, read_done, run_stage, unbundle
from spiceclust.training.context import Context
from spiceclust.training.features import Features, features_of
from spiceclust.training.head_choice import finalists
from spiceclust.training.pixels import Pixels, place
from spiceclust.training.sights import FeatureSight, PixelSight, Sight
from spiceclust.training.snapshots import Snapshots

PRETRAIN_FIELDS: Final = [
    "encoder", "encoder_digest", "backbone", "views", "own_views", "image_size", "channels", "seed", "pretrain",
]  # fmt: skip
EMBED_FIELDS: Final = ["embed", "select"]
SNAPSHOTS: Final = "snapshots"  # folder of the state of the stage that is being trained
LAYOUTS: Final = {"3-self": 3}  # of a stage's tensors, raised when they change: what has another is made again
SHARED: Final = ("1-pretrain", "2-embed")  # a new run may begin with copies of these: what fits it is not made again


class _Clustering(Protocol):
    def run(self, features: Features, config: FitConfig, context: Context) -> Artefact: ...


class _Retraining(Protocol):
    def run(
        self, sight: Sight, model: nn.Module, selected: Artefact, config: FitConfig, context: Context
    ) -> Artefact: ...


# How images can be clustered, and the part of the config that each way reads.
CLUSTERINGS: Final[dict[str, tuple[_Clustering, str]]] = {
    "prototypes": (self_label, "self_label"),
    "cuts": (graph_label, "graph_label"),
    "neighbors": (scan, "scan"),
}


class _Method(NamedTuple):
    """The ways to cluster, the published one first; the stage after it, and the part of the config that this reads."""

    clusterings: tuple[str, ...]
    retraining: _Retraining
    retraining_part: str


METHODS: Final = {
    "spice": _Method(("prototypes", "cuts", "neighbors"), semi, "semi"),
    "spice-paper": _Method(("prototypes",), semi, "semi"),
    "scan": _Method(("neighbors",), confident, "confident"),
}


class Found(NamedTuple):
    """What the stages found.

    Attributes:
        classifier: what ships, calibrated.
        neighbors: (N, K) integers, of the embed stage.
        calibrated: of the last stage.
    """

    classifier: Classifier
    neighbors: Tensor
    calibrated: Artefact


class Course:
    """One pass through the stages: which folder, which key, how long, what was found.

    Args:
        folder: the run's; of the processes that follow, which write nothing, it does not matter.
        config: all of it.
        fingerprint: of the images.
        context: seed, device, progress, processes.
        given: the encoder, where it is not learned.
    """

    def __init__(
        self, folder: Path, config: FitConfig, fingerprint: str, context: Context, given: Given | None
    ) -> None:
        self.folder, self.config, self.context, self.given = folder, config, context, given
        self.views = context.views or Views(config.views)
        self.digest = sha256_json([fingerprint, VERSION])
        self.more: Tensor | None = None
        self.metrics: dict[str, Any] = {}
        self.record: dict[str, Any] = {
            "state": "running",
            "config": config.model_dump(),
            "seed": config.seed,
            "images": fingerprint,
            "device": str(context.device),
            "bf16": context.bf16,
            "compile": context.compile,
            "threads": torch.get_num_threads(),
            "processes": context.world.size,
            "versions": {"spiceclust": VERSION, "torch": torch.__version__, "python": platform.python_version()},
            "seconds": {},
            "warnings": [],
        }

    def add_to_stage_1(self, more: Tensor, fingerprint: str) -> None:
        """Lets stage 1 learn from more images, which are not clustered: (n, channels, S, S) uint8 in host memory."""
        self.more = more
        self.digest = sha256_json([self.digest, fingerprint])
        self.record["only_in_stage_1"] = len(more)
        self.context.progress.say(f"{len(more)} more images join stage 1 alone")

    def compute(self, images: Tensor) -> Found:
        """Runs every stage; what they keep is all that is written.

        Args:
            images: (N, channels, S, S) uint8, or embeddings in the place of pixels, in host memory.
        """
        config, context = self.config, self.context
        pixels = place(images, context.device)
        method = METHODS[config.method]
        encoder = self._encoder(images, pixels)
        embedded = self._together("2-embed", EMBED_FIELDS, lambda context: embed.run(pixels, encoder, config, context))
        neighbors = embedded.tensors["neighbors"]
        self.metrics["2-embed"], collapsed = collapse.of_features(embedded.tensors["plain"])
        self.warn(collapsed)
        parts = ["n_clusters", *(CLUSTERINGS[name][1] for name in method.clusterings)]

        def cluster(context: Context) -> Artefact:
            return self._cluster(method, embedded, pixels, encoder, context)

        labelled = unbundle(self._together("3-self", parts, cluster))
        for name, found in labelled.items():
            self.warn(collapse.of_heads(name, found.tensors["head_labels"], config.n_clusters))

        def select_one(name: str, context: Context) -> Artefact:
            return select.run(labelled[name].tensors["probabilities"], neighbors, config, context)

        selected = unbundle(self._led("4-select", ["select"], _each(labelled, select_one)))
        firsts = {name: self._classifier(encoder, found) for name, found in labelled.items()}
        tuned, seconds = self._retrain(method, embedded, pixels, firsts, selected)
        verdicts = {}
        for name, found in labelled.items():
            pair, opinions = (firsts[name], seconds.get(name)), found.tensors["opinions"]
            verdicts[name] = guard.run(pixels, *pair, opinions, neighbors, guard.margin_of(name), config, context)
            self.warn(collapse.of_retraining(name, verdicts[name].facts["sizes"]))
        self.metrics.update(
            {
                "3-self": {name: _without_loss(found.facts) for name, found in labelled.items()},
                "4-select": {name: found.facts for name, found in selected.items()},
                "5-semi": {name: _without_loss(found.facts) for name, found in tuned.items()},
            }
        )
        clustering, shipped = self._choose(verdicts, tuned)
        classifier = (firsts if shipped == "3-self" else seconds)[clustering]
        opinions = labelled[clustering].tensors["opinions"]
        calibrated = calibrate.run(pixels, classifier, opinions, neighbors, config, context)
        classifier.load_state_dict(part(calibrated.tensors, "classifier."))
        self.metrics["calibration"] = calibrated.facts
        return Found(classifier, neighbors, calibrated)

    def finish(self, images: Images, found: Found) -> Result:
        """Writes the results and returns them."""
        probabilities, embeddings = (found.calibrated.tensors[name] for name in ("probabilities", "embeddings"))
        final = select.run(probabilities, found.neighbors, self.config, self.context)
        self.warn(collapse.of_result(probabilities.argmax(dim=1).bincount(minlength=self.config.n_clusters).tolist()))
        save_model(self.folder, found.classifier, embeddings)
        self.metrics["reliable"] = final.facts
        self.record["state"] = "done"
        positions, self.record["positions"] = place_in_plane(embeddings, self.config.seed)
        reliable = final.tensors["reliable"].bool()
        result = result_of(images, probabilities, embeddings, positions, reliable, self.record, self.metrics)
        self.record[RECORDED] = write_embeddings(self.folder, embeddings.cpu().numpy())
        result.save(self.folder)
        shutil.rmtree(self.folder / SNAPSHOTS, ignore_errors=True)
        return result

    def warn(self, lines: list[str]) -> None:
        """Says what has collapsed, and keeps it for the end."""
        self.record["warnings"] += lines
        for line in lines:
            self.context.progress.say(f"warning: {line}")

    def _with_more(self, images: Tensor, pixels: Pixels) -> Pixels:
        """What stage 1 learns from: the images, and those that only it sees."""
        return pixels if self.more is None else place(images, self.context.device, self.more)

    def _encoder(self, images: Tensor, pixels: Pixels) -> Encoder:
        """The encoder of stage 1: learned from the images, or the one that is given."""
        config, given = self.config, self.given

        def learn(context: Context) -> Artefact:
            if given is None:
                return pretrain.run(self._with_more(images, pixels), config, context)
            context.progress.say(f"stage 1 learns nothing: the encoder is given ({given.design.n_features} features)")
            return Artefact(given.weights())

        by_whom = self._together if given is None else self._led
        learned = by_whom("1-pretrain", PRETRAIN_FIELDS, learn)
        encoder = given.build() if given else pretrain.new_encoder(pixels, config, self.context)
        encoder.load_state_dict(dict(learned.tensors))
        return encoder.to(self.context.device)

    def _retrain(
        self,
        method: _Method,
        embedded: Artefact,
        pixels: Pixels,
        firsts: dict[str, Classifier],
        selected: dict[str, Artefact],
    ) -> tuple[dict[str, Artefact], dict[str, Classifier]]:
        """Stage 3 of the paper from each of `firsts`: what it left behind, and the classifiers; none where skipped."""
        config, context, part_name = self.config, self.context, method.retraining_part
        if self.given and self.given.design.kind == "embeddings":
            why = "skipped: it learns from views of images, and of ready embeddings there are none"
            context.progress.say(f"5-semi {why}")
            self.record["skipped"] = {"5-semi": why}
            return {}, {}
        whole = getattr(config, part_name).train_encoder
        encoder = next(iter(firsts.values())).encoder
        sight: Sight = (
            PixelSight(pixels, self.views)
            if whole
            else FeatureSight(features_of(embedded, pixels, encoder, self.views, context))
        )

        def learning(classifier: Classifier) -> nn.Module:
            return classifier if whole else classifier.head

        def retrain_one(name: str, context: Context) -> Artefact:
            context.progress.say(f"stage 5 from {name}")
            return method.retraining.run(sight, learning(firsts[name]), selected[name], config, context)

        tuned = unbundle(self._together("5-semi", [part_name], _each(firsts, retrain_one)))
        seconds = {
            name: Classifier(copy.deepcopy(first.encoder) if whole else first.encoder, copy.deepcopy(first.head))
            for name, first in firsts.items()
        }
        for name, second in seconds.items():
            learning(second).load_state_dict(dict(tuned[name].tensors))
        return tuned, seconds

    def _choose(self, verdicts: dict[str, Artefact], tuned: dict[str, Artefact]) -> tuple[str, str]:
        """The clustering that goes on, and the stage of it that ships: the leader's choice, however others round."""

        def choose() -> Artefact:
            used = {name: tuned[name].facts["used"] if name in tuned else 0.0 for name in verdicts}
            clustering, together = guard.choose(verdicts, used)
            shipped = verdicts[clustering].facts["shipped"]
            return Artefact({}, {"clustering": clustering, "shipped": shipped, "together": together})

        chosen = self.context.world.led(choose, self.context.device).facts
        clustering, shipped, together = chosen["clustering"], chosen["shipped"], chosen["together"]
        told = ", ".join(f"{name} {score:.3f}" for name, score in together.items())
        self.context.progress.say(f"guard: {shipped} of {clustering} ships; scores: {told}")
        self.metrics["guard"] = {name: found.facts for name, found in verdicts.items()} | {"together": together}
        self.record["clustering"], self.record["shipped"] = clustering, shipped
        return clustering, shipped

    def _cluster(
        self, method: _Method, embedded: Artefact, pixels: Pixels, encoder: Encoder, context: Context
    ) -> Artefact:
        """Clusters in every way of the method, and bundles what is worth carrying on."""
        config = self.config
        features = features_of(embedded, pixels, encoder, self.views, context)
        world = context.world
        ways = {name: CLUSTERINGS[name][0].run for name in method.clusterings}
        if config.embed.cached_views:
            works = {name: partial(run, features, config, context.alone()) for name, run in ways.items()}
            candidates = world.divided(works, context.device)
        else:  # fresh views are so much to embed that all share them
            candidates = {name: run(features, config, context) for name, run in ways.items()}
        kept = world.led(lambda: bundle(finalists(candidates, features, config.n_clusters)), context.device)
        scores = ", ".join(f"{name} {facts['partition_score']:.3f}" for name, facts in kept.facts.items())
        context.progress.say(f"clustered by {', '.join(candidates)}; carried on: {scores}")
        return kept

    def _classifier(self, encoder: Encoder, labelled: Artefact) -> Classifier:
        """The encoder of stage 1 with a head of stage 2."""
        head = build_head(encoder.n_features, self.config.n_clusters)
        head.load_state_dict(part(labelled.tensors, "head."))
        return Classifier(encoder, head).to(self.context.device)

    def refuse_other_stages(self) -> None:
        """Refuses first stages that do not fit: they are another run's, and not to be replaced."""
        digest = self.digest
        for name, fields in (("1-pretrain", PRETRAIN_FIELDS), ("2-embed", EMBED_FIELDS)):
            stage = self.folder / name
            if not stage.exists():
                continue
            key = self._key(name, digest, fields)
            done = read_done(stage) if (stage / "done.json").exists() else {}
            if done.get("key") != key:
                raise RunFolderError(f"{stage} is of another run, and no run.json says which: choose another folder")
            digest = sha256_json([key, done["sha256"]["tensors.safetensors"]])

    def _key(self, name: str, digest: str, fields: list[str]) -> str:
        values = self.config.model_dump()
        layout = [LAYOUTS[name]] if name in LAYOUTS else []
        return sha256_json([name, digest, {field: values[field] for field in fields}, *layout])

    def _led(self, name: str, fields: list[str], compute: Callable[[Context], Artefact]) -> Artefact:
        """The next stage, by the leader, for all."""
        return self.context.world.led(
            lambda: self._kept(name, fields, lambda context: compute(context.alone())).artefact, self.context.device
        )

    def _together(self, name: str, fields: list[str], compute: Callable[[Context], Artefact]) -> Artefact:
        """The next stage, by all processes; what is there already the leader hands on."""
        world, device = self.context.world, self.context.device
        to_be_made = Artefact({}, {"to_be_made": True})
        if not world.leads:
            there = world.led(lambda: to_be_made, device)
            return compute(self.context) if there.facts == to_be_made.facts else there

        def begin(context: Context) -> Artefact:
            world.led(lambda: to_be_made, device)
            return compute(context)

        found = self._kept(name, fields, begin)
        if found.resumed:
            world.led(lambda: found.artefact, device)
        return found.artefact

    def _kept(self, name: str, fields: list[str], compute: Callable[[Context], Artefact]) -> Finished:
        """Runs or skips the next stage; its key holds what the one before it made, and through that all before."""
        key = self._key(name, self.digest, fields)
        snapshots = Snapshots(self.folder / SNAPSHOTS / name, key, self.context.device)
        context = replace(self.context, snapshots=snapshots)
        finished = run_stage(
            self.folder / name, key, self.context.device, lambda: compute(context), lambda: snapshots.clock.before
        )
        snapshots.clear()
        self.digest = sha256_json([key, finished.digest])
        self.record["seconds"][name] = round(finished.seconds, 2)
        how = "already there" if finished.resumed else f"in {clock(finished.seconds)}"
        self.context.progress.say(f"{name} done, {how}")
        return finished


def _each(names: Iterable[str], stage: Callable[[str, Context], Artefact]) -> Callable[[Context], Artefact]:
    """A stage that is run for each clustering that goes on."""
    return lambda context: bundle({name: stage(name, context.within(name)) for name in names})


def _without_loss(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "loss"}
