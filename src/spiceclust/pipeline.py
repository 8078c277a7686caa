"""From a source to a finished run: what is read and refused before the stages (`course.py`), and what they are given.

N distinct readable images, n rows of the manifest (bad files and duplicates included), C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from spiceclust.config import FitConfig, Request, image_size, resolve
from spiceclust.course import METHODS, SHARED, Course, Found
from spiceclust.data.arrays import Array
from spiceclust.data.domain import choose_domain
from spiceclust.data.encoded import Encoded
from spiceclust.data.images import load, mapped
from spiceclust.data.own_views import NoViews
from spiceclust.data.packed import discard
from spiceclust.data.room import choose_room
from spiceclust.data.sources import Source
from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.facts import facts_of, say_start, why_these_views
from spiceclust.given import NOTHING, Given, Own, open_encoder, open_views
from spiceclust.locks import locked
from spiceclust.manifest import write_manifest
from spiceclust.models.encoders import Design
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result
from spiceclust.run_folder import look_at, refuse_differences, sweep, write_record
from spiceclust.shipped import VERSION
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import open_context, open_device
from spiceclust.training.distributed import ALONE, World, refuse_devices
from spiceclust.training.lanes import open_lanes
from spiceclust.training.synced import layers_to_share

EARLY = ("n_clusters", "seed", "preset", "encoder")  # fields that are known before an image is read
CPU: Final = torch.device("cpu")
PIXELS, MORE = "pixels", "more"  # what the leader hands to those that follow
KEPT: Final = "pixels"  # folder of the decoded images, where memory does not take them; gone when the run is done
KEPT_MORE: Final = "pixels-more"  # the same of those that only stage 1 sees
Files = Mapping[str, tuple[str, str]]  # by what is in them: the folder, the fingerprint
EARLIER: Final = (*SHARED, KEPT, KEPT_MORE)  # what may lie in a folder before it is a run


def fit(
    source: Source,
    request: Request,
    folder: Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    compile: bool = False,
    own: Own = NOTHING,
    world: World = ALONE,
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
        world: the processes that train together, of which this one leads; the others `follow`.
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
        return _fit(source, request, folder, device, progress, compile, own, world, pixels)


def follow(world: World, *, device: str = "auto", compile: bool = False) -> None:
    """What the processes do that do not lead: their share of the fit that the leader was asked for.

    Images and config come from the leader, or images from the file into which it has packed them; the source is not
    read here, and nothing written.

    Args:
        world: the processes that train together.
        device, compile: as in `fit`.

    Raises:
        ConfigError: the device cannot be used, or is of another kind than the leader's.
        TrainingError: a stage could not go on.
    """
    refuse_devices(world, open_device(device))
    told = world.led(lambda: Artefact({}), CPU)
    config, design = FitConfig(**told.facts["config"]), told.facts["design"]
    context = open_context(config.seed, device, None, compile=compile)
    given = Given(Design(**design), "", dict) if design else None
    views = NoViews() if given and given.design.kind == "embeddings" else None
    course = Course(Path(), config, "", replace(context, bf16=told.facts["bf16"], world=world, views=views), given)
    tensors = _handed_on(world, {}, told.facts["files"])
    course.more = tensors.get(MORE)
    course.compute(tensors[PIXELS])


def _fit(
    source: Source,
    request: Request,
    folder: Path,
    device: str,
    progress: Progress | None,
    compile: bool,
    own: Own,
    world: World,
    keep: str,
) -> Result:
    earlier = look_at(folder, EARLIER)
    early = {field: getattr(request, field) for field in EARLY}
    refuse_differences(folder, earlier, {**early, **request.overrides})
    context = replace(open_context(request.seed, device, progress, compile=compile), world=world)
    refuse_devices(world, context.device)
    native = source.native_size()
    given = open_encoder(request, native, own)
    size, channels = (given.design.image_size, given.design.channels) if given else (image_size(request, native), None)
    room = choose_room(source, size, channels, keep, folder / KEPT, context.progress)
    images = load(source, size, channels, context.progress, room, VERSION)
    files = {PIXELS: (str(room.absolute()), images.fingerprint)} if room else {}
    pixels = torch.from_numpy(images.pixels)
    views = choose_domain(pixels)
    config = resolve(request, facts_of(images, native, views, source.benchmark, given))
    _refuse_sharing(config, world, given)
    refuse_differences(folder, earlier, config.model_dump(), images.fingerprint)
    why = why_these_views(request, views, given)
    if given and given.vectors:
        images, files = given.vectors.of(images), {}
        pixels, context = torch.from_numpy(images.pixels), replace(context, views=NoViews())
    elif config.own_views:
        context = replace(context, views=open_views(config.own_views, own, pixels[:2], context))
    say_start(images, config, why, context.progress)

    course = Course(folder, config, images.fingerprint, context, given)
    if isinstance(source, Encoded) and source.decoder.without_limits:
        course.warn([source.decoder.without_limits])
    if given is None and isinstance(source, Array) and source.extra is not None:
        looks = config.image_size, config.channels
        room = choose_room(source.extra, *looks, keep, folder / KEPT_MORE, context.progress)
        more = load(source.extra, *looks, context.progress, room, VERSION)
        files = {**files, MORE: (str(room.absolute()), more.fingerprint)} if files and room else {}
        course.add_to_stage_1(torch.from_numpy(more.pixels), more.fingerprint)
    if earlier is None:
        course.refuse_other_stages()
    course.record.update(request=request.model_dump(), source=source.description, source_root=source.root, views=why)
    sweep(folder)
    if earlier is None or earlier.get("state") != "done":  # what is done stays whole until it is replaced
        write_record(folder, course.record)  # first: it is what makes the folder a run
        write_manifest(folder, images.rows)
    result = course.finish(images, _compute(course, pixels, files))
    discard(folder / KEPT)
    discard(folder / KEPT_MORE)
    return result


def _compute(course: Course, pixels: Tensor, files: Files) -> Found:
    """Sends the processes that follow on the same course, and goes it; `files` hold all images, or there are none."""
    context, given, world = course.context, course.given, course.context.world
    tensors = {PIXELS: pixels} if course.more is None else {PIXELS: pixels, MORE: course.more}
    design = asdict(given.design) if given else None
    facts = {"config": course.config.model_dump(), "design": design, "files": files, "bf16": context.bf16}
    world.led(lambda: Artefact({}, facts), CPU)
    _handed_on(world, tensors, files)
    if world.size > 1:
        return course.compute(pixels)
    with open_lanes(context.device) as lanes:
        own_code = course.config.own_views or (given and given.design.kind == "module")  # nobody said it can be in two
        course.context = replace(context, lanes=1 if context.compile or own_code else lanes)
        return course.compute(pixels)


def _handed_on(world: World, tensors: Mapping[str, Tensor], files: Files) -> Mapping[str, Tensor]:
    """The leader's images, on all processes: mapped from its files where every process finds them, sent otherwise.

    Args:
        world: the processes that train together.
        tensors: the images; of those that follow, none.
        files: where they are packed, and their fingerprint.
    """
    if files and not world.leads:
        tensors = _mapped(files)
    (missing,) = world.any(not files or not tensors)
    return world.led(lambda: Artefact(tensors), CPU).tensors if missing else tensors


def _mapped(files: Files) -> dict[str, Tensor]:
    """Images from the leader's files; none where these are not all to be found, as on another machine's disk."""
    try:
        found = {name: mapped(Path(path)) for name, (path, _) in files.items()}
    except RunFolderError:
        return {}
    if any(found[name].fingerprint != fingerprint for name, (_, fingerprint) in files.items()):
        return {}
    return {name: torch.from_numpy(images.pixels) for name, images in found.items()}


def _refuse_sharing(config: FitConfig, world: World, given: Given | None) -> None:
    """Raises ConfigError where a batch holds fewer images than there are processes, or they cannot share batch norm."""
    name = METHODS[config.method].retraining_part
    for part, size in (("pretrain", config.pretrain.batch_size), (name, getattr(config, name).batch_size)):
        if size < world.size:
            raise ConfigError(
                f"{part}.batch_size={size} is less than the {world.size} processes that share a batch: start fewer"
            )
    if world.size > 1 and given and getattr(config, name).train_encoder:
        layers_to_share(given.build())
