"""What is known of a fit before anything is computed: facts about the images, why their views, and how that is told."""

from __future__ import annotations

from typing import Literal

from spiceclust.config import Facts, FitConfig, Request
from spiceclust.data.domain import DomainChoice
from spiceclust.data.images import Images
from spiceclust.given import Given
from spiceclust.progress import Progress


def facts_of(images: Images, native: int, views: DomainChoice, benchmark: str, given: Given | None) -> Facts:
    """What a config follows from, beside the request.

    Args:
        images: as they were read.
        native: median shorter side of the originals, pixels.
        views: which views fit.
        benchmark: which data set of the paper this is, if one.
        given: the encoder, where it is not learned.
    """
    n, channels = images.pixels.shape[:2]
    grey_or_colour: Literal[1, 3] = 3 if channels == 3 else 1
    facts = Facts(n_images=n, native_size=native, channels=grey_or_colour, domain=views.domain, benchmark=benchmark)
    if given is None:
        return facts
    design, digest = given.design, given.digest
    return facts.model_copy(
        update={
            "encoder_size": design.image_size,
            "encoder_digest": digest,
            "our_encoder": design.kind == "moco",
        }
    )


def why_these_views(request: Request, views: DomainChoice, given: Given | None) -> str:
    """Why the images are seen in these views, a few words."""
    if given and given.vectors:
        return "none: the embeddings are what they are"
    return f"chosen: {views.reason}" if request.views == "auto" else "as asked"


def say_start(images: Images, config: FitConfig, views: str, progress: Progress) -> None:
    """Tells what was found and what will be done; `views` of `why_these_views`."""
    count = {status: sum(row.status == status for row in images.rows) for status in ("quarantined", "duplicate")}
    say = progress.say
    say(
        f"{len(images.rows)} found: {len(images.pixels)} distinct images, {count['duplicate']} duplicates, "
        f"{count['quarantined']} quarantined"
    )
    encoder = config.backbone if config.encoder == "moco" else config.encoder
    if images.pixels.ndim == 2:
        say(f"{config.n_clusters} clusters, {encoder}; views: {views}")
        return
    say(f"{config.n_clusters} clusters, {config.image_size} px, {config.channels} channels, {encoder}")
    say(f"views: {config.own_views or config.views}, {views}")
