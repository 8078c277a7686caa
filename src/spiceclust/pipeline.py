"""The stages in order, each in its own folder of the run; what is done and unchanged is skipped.

N distinct readable images, n rows of the manifest (bad files and duplicates included), C clusters.
"""

from __future__ import annotations

import copy
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spiceclust.config import FitConfig, Request, image_size, resolve
from spiceclust.data.arrays import Array
from spiceclust.data.domain import choose_domain
from spiceclust.data.encoded import Encoded
from spiceclust.data.images import Images, load
from spiceclust.data.own_views import NoViews
from spiceclust.data.packed import discard
from spiceclust.data.room import choose_room
from spiceclust.data.sources import Source
from spiceclust.data.views import Views
from spiceclust.embeddings import RECORDED, write_embeddings
from spiceclust.errors import RunFolderError
from spiceclust.facts import facts_of, say_start, why_these_views
from spiceclust.files import sha256_json
from spiceclust.functional.plane import place_in_plane
from spiceclust.given import NOTHING, Given, Own, open_encoder, open_views
from spiceclust.locks import locked
from spiceclust.manifest import write_manifest
from spiceclust.models.encoders import Encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.outcome import result_of
from spiceclust.progress import Progress, Silent, clock
from spiceclust.result import Result
from spiceclust.run_folder import look_at, refuse_differences, sweep, write_record
from spiceclust.shipped import VERSION, save_model
from spiceclust.stages import calibrate, confident, embed, graph_label, guard, pretrain, scan, select, self_label, semi
from spiceclust.training import collapse
from spiceclust.training.checkpoint import Artefact, bundle, part, read_done, run_stage, unbundle
from spiceclust.training.context import Context, open_context
from spiceclust.training.features import Features, features_of
from spiceclust.training.head_choice import finalists
from spiceclust.training.lanes import open_lanes
from spiceclust.training.pixels import Pixels, place
from spiceclust.training.sights import FeatureSight, PixelSight, Sight
from spiceclust.training.snapshots import Snapshots

EARLY = ("n_clusters", "seed", "preset", "encoder")  # fields that are known before an image is read
PRETRAIN_FIELDS: Final = [
    "encoder", "encoder_digest", "backbone", "views", "own_views", "image_size", "channels", "seed", "pretrain",
]  # fmt: skip
EMBED_FIELDS: Final = ["embed", "select"]
SNAPSHOTS: Final = "snapshots"  # folder of the state of the stage that is being trained
LAYOUTS: Final = {"3-self": 3}  # of a stage's tensors, raised when they change: what has another is made again
SHARED: Final = ("1-pretrain", "2-embed")  # a new run may begin with copies of these: what fits it is not made again
PIXELS: Final = "pixels"  # folder of the decoded images, where memory does not take them; gone when the run is done
EXTRA: Final = "pixels-extra"  # the same of those that only stage 1 sees
EARLIER: Final = (*SHARED, PIXELS, EXTRA)  # what may lie in a folder before it is a run


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


def fit(
    source: Source,
    request: Request,
    folder: Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    compile: bool = False,
    own: Own = NOTHING,
    pixels: str = "auto",
) -> Result:
    """Runs all stages from images to clusters, or goes on where an earlier call with the same config stopped.

    Args:
        source: the images.
        request: what is wanted.
        folder: the run folder; made when it is not there.
        device: `auto`, `cpu`, `cuda`, ...
        progress: where to tell what is done; silent by default.
        compile: whether networks go through torch.compile.
        own: what the request names as one's own: `module:NAME` and `own:NAME`.
        pixels: where decoded images are kept: `memory`, `disk` (`pixels/` in the run folder, until the run is done), or
            `auto`, which is the disk where they would take more than half of the memory that can be had. No result
            depends on it.

    Raises:
        ConfigError: something in the request cannot be.
        SourceError: no readable images, or fewer than twice the clusters; embeddings that are not theirs.
        RunFolderError: the folder cannot be written, is something else, holds a run with another config, or another
            process is writing there.
        TrainingError: a stage could not go on.
    """
    look_at(folder, EARLIER)  # what is no place for a run is left as it is
    with locked(folder, progress or Silent()):
        return _fit(source, request, folder, device, progress, compile, own, pixels)


def _fit(
    source: Source,
    request: Request,
    folder: Path,
    device: str,
    progress: Progress | None,
    compile: bool,
    own: Own,
    keep: str,
) -> Result:
    earlier = look_at(folder, EARLIER)
    early = {field: getattr(request, field) for field in EARLY}
    refuse_differences(folder, earlier, {**early, **request.overrides})
    context = open_context(request.seed, device, progress, compile=compile)

    native = source.native_size()
    given = open_encoder(request, native, own)
    size, channels = (given.design.image_size, given.design.channels) if given else (image_size(request, native), None)
    room = choose_room(source, size, channels, keep, folder / PIXELS, context.progress)
    images = load(source, size, channels, context.progress, room, VERSION)
    pixels = torch.from_numpy(images.pixels)
    views = choose_domain(pixels)
    config = resolve(request, facts_of(images, native, views, source.benchmark, given))
    refuse_differences(folder, earlier, config.model_dump(), images.fingerprint)
    why = why_these_views(request, views, given)
    if given and given.vectors:
        images = given.vectors.of(images)
        pixels, context = torch.from_numpy(images.pixels), replace(context, views=NoViews())
    elif config.own_views:
        context = replace(context, views=open_views(config.own_views, own, pixels[:2], context))
    say_start(images, config, why, context.progress)

    run = _Run(folder, config, images, context, given)
    if isinstance(source, Encoded) and source.decoder.without_limits:
        run.warn([source.decoder.without_limits])
    if given is None and isinstance(source, Array) and source.extra is not None:
        looks = config.image_size, config.channels
        room = choose_room(source.extra, *looks, keep, folder / EXTRA, context.progress)
        run.add_to_stage_1(load(source.extra, *looks, context.progress, room, VERSION))
    if earlier is None:
        run.refuse_other_stages()
    run.record.update(request=request.model_dump(), source=source.description, source_root=source.root, views=why)
    sweep(folder)
    if earlier is None or earlier.get("state") != "done":  # what is done stays whole until it is replaced
        write_record(folder, run.record)  # first: it is what makes the folder a run
        write_manifest(folder, images.rows)
    with open_lanes(context.device) as lanes:
        own_code = config.own_views or (given and given.design.kind == "module")  # nobody said that it can be in two
        run.context = replace(context, lanes=1 if compile or own_code else lanes)
        result = run.execute(pixels)
    discard(folder / PIXELS)
    discard(folder / EXTRA)
    return result


class _Run:
    """One pass through the stages: which folder, which key, how long, what was found."""

    def __init__(self, folder: Path, config: FitConfig, images: Images, context: Context, given: Given | None) -> None:
        self.folder, self.config, self.images, self.context, self.given = folder, config, images, context, given
        self.views = context.views or Views(config.views)
        self.digest = sha256_json([images.fingerprint, VERSION])
        self.more: Tensor | None = None
        self.metrics: dict[str, Any] = {}
        self.record: dict[str, Any] = {
            "state": "running",
            "config": config.model_dump(),
            "seed": config.seed,
            "images": images.fingerprint,
            "device": str(context.device),
            "bf16": context.bf16,
            "compile": context.compile,
            "threads": torch.get_num_threads(),
            "versions": {"spiceclust": VERSION, "torch": torch.__version__, "python": platform.python_version()},
            "seconds": {},
            "warnings": [],
        }

    def add_to_stage_1(self, more: Images) -> None:
        """Lets stage 1 learn from more images, which are not clustered."""
        self.more = torch.from_numpy(more.pixels)
        self.digest = sha256_json([self.digest, more.fingerprint])
        self.record["only_in_stage_1"] = len(self.more)
        self.context.progress.say(f"{len(self.more)} more images join stage 1 alone")

    def execute(self, images: Tensor) -> Result:
        """Runs every stage, writes the results and returns them.

        Args:
            images: (N, channels, S, S) uint8, or embeddings in the place of pixels, in host memory.
        """
        config, context = self.config, self.context
        pixels = place(images, context.device)
        method = METHODS[config.method]
        encoder = self._encoder(images, pixels)
        embedded = self._stage("2-embed", EMBED_FIELDS, lambda context: embed.run(pixels, encoder, config, context))
        neighbors = embedded.tensors["neighbors"]
        self.metrics["2-embed"], collapsed = collapse.of_features(embedded.tensors["plain"])
        self.warn(collapsed)
        parts = ["n_clusters", *(CLUSTERINGS[name][1] for name in method.clusterings)]

        def cluster(context: Context) -> Artefact:
            return self._cluster(method, embedded, pixels, encoder, context)

        labelled = unbundle(self._stage("3-self", parts, cluster))
        for name, found in labelled.items():
            self.warn(collapse.of_heads(name, found.tensors["head_labels"], config.n_clusters))

        def select_one(name: str, context: Context) -> Artefact:
            return select.run(labelled[name].tensors["probabilities"], neighbors, config, context)

        selected = unbundle(self._stage("4-select", ["select"], _each(labelled, select_one)))
        firsts = {name: self._classifier(encoder, found) for name, found in labelled.items()}
        tuned, seconds = self._retrain(method, embedded, pixels, firsts, selected)
        verdicts = {}
        for name, found in labelled.items():
            pair, opinions = (firsts[name], seconds.get(name)), found.tensors["opinions"]
            verdicts[name] = guard.run(pixels, *pair, opinions, neighbors, guard.margin_of(name), config, context)
            self.warn(collapse.of_retraining(name, verdicts[name].facts["sizes"]))
        used = {name: tuned[name].facts["used"] if name in tuned else 0.0 for name in labelled}
        clustering, together = guard.choose(verdicts, used)
        shipped = verdicts[clustering].facts["shipped"]
        told = ", ".join(f"{name} {score:.3f}" for name, score in together.items())
        context.progress.say(f"guard: {shipped} of {clustering} ships; scores: {told}")
        classifier = (firsts if shipped == "3-self" else seconds)[clustering]
        opinions = labelled[clustering].tensors["opinions"]
        calibrated = calibrate.run(pixels, classifier, opinions, neighbors, config, context)
        classifier.load_state_dict(part(calibrated.tensors, "classifier."))
        probabilities = calibrated.tensors["probabilities"]
        final = select.run(probabilities, neighbors, config, context)
        self.warn(collapse.of_result(probabilities.argmax(dim=1).bincount(minlength=config.n_clusters).tolist()))
        save_model(self.folder, classifier, calibrated.tensors["embeddings"])
        self.metrics.update(
            {
                "3-self": {name: _without_loss(found.facts) for name, found in labelled.items()},
                "4-select": {name: found.facts for name, found in selected.items()},
                "5-semi": {name: _without_loss(found.facts) for name, found in tuned.items()},
                "guard": {name: found.facts for name, found in verdicts.items()} | {"together": together},
                "calibration": calibrated.facts,
                "reliable": final.facts,
            }
        )
        self.record["clustering"] = clustering
        self.record["state"] = "done"
        self.record["shipped"] = shipped
        positions, self.record["positions"] = place_in_plane(calibrated.tensors["embeddings"], config.seed)
        result = result_of(
            self.images,
            probabilities,
            calibrated.tensors["embeddings"],
            positions,
            final.tensors["reliable"].bool(),
            self.record,
            self.metrics,
        )
        self.record[RECORDED] = write_embeddings(self.folder, calibrated.tensors["embeddings"].cpu().numpy())
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

        learned = self._stage("1-pretrain", PRETRAIN_FIELDS, learn)
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
        if self.given and self.given.vectors:
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

        tuned = unbundle(self._stage("5-semi", [part_name], _each(firsts, retrain_one)))
        seconds = {
            name: Classifier(copy.deepcopy(first.encoder) if whole else first.encoder, copy.deepcopy(first.head))
            for name, first in firsts.items()
        }
        for name, second in seconds.items():
            learning(second).load_state_dict(dict(tuned[name].tensors))
        return tuned, seconds

    def _cluster(
        self, method: _Method, embedded: Artefact, pixels: Pixels, encoder: Encoder, context: Context
    ) -> Artefact:
        """Clusters in every way of the method, and bundles what is worth carrying on."""
        config = self.config
        features = features_of(embedded, pixels, encoder, self.views, context)
        candidates = {name: CLUSTERINGS[name][0].run(features, config, context) for name in method.clusterings}
        found = finalists(candidates, features, config.n_clusters)
        scores = ", ".join(f"{name} {each.facts['partition_score']:.3f}" for name, each in found.items())
        context.progress.say(f"clustered by {', '.join(candidates)}; carried on: {scores}")
        return bundle(found)

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

    def _stage(self, name: str, fields: list[str], compute: Callable[[Context], Artefact]) -> Artefact:
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
        return finished.artefact


def _each(names: Iterable[str], stage: Callable[[str, Context], Artefact]) -> Callable[[Context], Artefact]:
    """A stage that is run for each clustering that goes on."""
    return lambda context: bundle({name: stage(name, context.within(name)) for name in names})


def _without_loss(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "loss"}
