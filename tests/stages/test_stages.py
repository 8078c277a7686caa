"""Each stage alone, on small made-up data of which the right answer is known."""

import functools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.config import Domain, Facts, FitConfig, Request, resolve
from spiceclust.data.views import Views
from spiceclust.functional.metrics import score_clusters
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.functional.partition import partition_score
from spiceclust.functional.reliable import agreement, consistency
from spiceclust.models.encoders import Encoder
from spiceclust.models.heads import Classifier, ClusterHeads, build_head
from spiceclust.stages import confident, embed, graph_label, guard, pretrain, scan, select, self_label, semi
from spiceclust.training import snapshots
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import CachedFeatures
from spiceclust.training.inference import BATCH, classify
from spiceclust.training.sights import PixelSight
from spiceclust.training.snapshots import Snapshots

CPU = torch.device("cpu")
CONTEXT = Context(0, CPU, bf16=False)
SIDE = 8


def config(n: int, clusters: int, channels: Any = 1, domain: Domain = "glyph", **overrides: Any) -> FitConfig:
    request = Request(n_clusters=clusters, image_size=SIDE, overrides=overrides)
    return resolve(request, Facts(n_images=n, native_size=SIDE, channels=channels, domain=domain))


def accuracy(labels: Tensor, classes: Tensor) -> float:
    return score_clusters(labels.numpy(), classes.numpy()).acc


def same(one: Artefact, other: Artefact) -> bool:
    return one.facts == other.facts and all(torch.equal(tensor, other.tensors[k]) for k, tensor in one.tensors.items())


@functools.cache
def variations(classes: int = 6, per_class: int = 30) -> tuple[Tensor, Tensor]:
    """Images of which each is a random view of its class's one pattern, and the classes."""
    generator = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.rand((classes, 1, 5, 5), generator=generator), size=(SIDE, SIDE), mode="bilinear")
    kinds = torch.arange(classes).repeat(per_class)
    seen = Views("glyph").contrastive((patterns * 255).to(torch.uint8)[kinds], generator)
    return (seen * 255).round().clamp(0, 255).to(torch.uint8), kinds


def bars(per_class: int = 40) -> tuple[Tensor, Tensor]:
    """A bright bar that lies, stands or leans, on dark noise; no shift of a pixel makes one into another."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 30, (3 * per_class, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    classes = torch.arange(3).repeat(per_class)
    for image, kind in zip(images[:, 0], classes.tolist(), strict=True):
        ink = int(torch.randint(180, 256, (1,), generator=generator))
        if kind == 0:
            image[3:5] = ink
        elif kind == 1:
            image[:, 3:5] = ink
        else:
            image[torch.arange(SIDE), torch.arange(SIDE)] = ink
    return images, classes


class Pixels(nn.Module):
    """An encoder that shows the pixels themselves."""

    n_features = SIDE * SIDE

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


# Stage 1


def purity(encoder: Encoder, images: Tensor, classes: Tensor) -> float:
    """Share of the ten nearest neighbours that are of the same class."""
    with torch.no_grad():
        embeddings = F.normalize(encoder.eval()(images.float() / 255), dim=1)
    return float(agreement(classes, nearest_neighbors(embeddings, 10)[0]).mean())


def pretrain_config(n: int, **changes: Any) -> FitConfig:
    settings = {"batch_size": 32, "queue_size": 64, "temperature": 0.2, **changes}
    return config(n, 6, pretrain=settings)


def test_pretraining_learns_what_the_views_leave() -> None:
    images, classes = variations()
    settings = pretrain_config(len(images), epochs=60)
    encoder = pretrain.new_encoder(images, settings, CONTEXT)
    before = purity(encoder, images, classes)
    artefact = pretrain.run(images, settings, CONTEXT)
    encoder.load_state_dict(dict(artefact.tensors))
    assert purity(encoder, images, classes) > before + 0.1

    curve = artefact.facts["loss"]
    assert artefact.facts["steps"] == 60 * len(images) // 32
    # The loss begins low, against a queue of noise, rises to log(Q + 1) where nothing is told apart, and falls.
    assert max(curve) <= math.log(65) + 0.3
    assert np.mean(curve[-20:]) < np.mean(curve[20:40]) - 0.3


def test_pretraining_depends_on_seed_and_config_alone() -> None:
    images, _ = variations()
    settings = pretrain_config(len(images), epochs=1)
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), pretrain.run(images, settings, CONTEXT)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(pretrain.run(images, settings, CONTEXT), first)
    other = pretrain.run(images, settings, Context(1, CPU, bf16=False))
    assert not torch.equal(other.tensors["backbone.0.weight"], first.tensors["backbone.0.weight"])


def test_neighbours_stand_in_for_views_from_their_start_on() -> None:
    images, _ = variations()

    def weights(**changes: Any) -> Tensor:
        settings = pretrain_config(len(images), epochs=2, **changes)
        return pretrain.run(images, settings, CONTEXT).tensors["backbone.0.weight"]

    without = weights(neighbor_share=0)
    assert torch.equal(weights(neighbor_share=1, neighbor_start=1), without)
    assert not torch.equal(weights(neighbor_share=1, neighbor_start=0.5), without)


def test_pretraining_moves_weights_and_batch_statistics_and_nothing_else() -> None:
    images, _ = variations()
    settings = pretrain_config(len(images), epochs=2)
    start = pretrain.new_encoder(images, settings, CONTEXT).state_dict()
    trained = pretrain.run(images, settings, CONTEXT).tensors
    assert trained.keys() == start.keys()
    for moved in ("backbone.0.weight", "backbone.1.weight", "backbone.1.running_mean", "backbone.1.running_var"):
        assert not torch.equal(trained[moved], start[moved])
    for kept in ("mean", "std"):
        assert torch.equal(trained[kept], start[kept])


def test_pretraining_ships_the_moving_average() -> None:
    images, _ = variations()
    settings = pretrain_config(len(images), epochs=2, key_momentum=1 - 1e-7)
    start = pretrain.new_encoder(images, settings, CONTEXT).state_dict()
    trained = pretrain.run(images, settings, CONTEXT).tensors
    for name, tensor in trained.items():
        if tensor.is_floating_point():  # what is trained moves by hundredths in eleven steps
            torch.testing.assert_close(tensor, start[name], rtol=0, atol=1e-5)


def test_pretraining_at_least_takes_one_step() -> None:
    images, _ = variations()
    artefact = pretrain.run(images[:40], config(40, 6, pretrain={"batch_size": 32, "epochs": 1}), CONTEXT)
    assert artefact.facts["steps"] == 1
    assert len(artefact.facts["loss"]) == 1


def test_a_new_encoder_knows_the_pixels() -> None:
    images, _ = variations()
    encoder = pretrain.new_encoder(images, config(len(images), 6), CONTEXT)
    pixels = images.numpy() / 255
    assert encoder.mean.item() == pytest.approx(pixels.mean(), rel=1e-5)
    assert encoder.std.item() == pytest.approx(pixels.std(), rel=1e-3)
    even = pretrain.new_encoder(torch.full((9, 3, SIDE, SIDE), 51, dtype=torch.uint8), config(9, 2, 3), CONTEXT)
    assert even.mean.flatten().tolist() == pytest.approx([0.2] * 3)
    assert torch.isfinite(even(torch.rand(2, 3, SIDE, SIDE))).all()


# Between stages 1 and 2


def random_images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def pixels_embedded() -> Artefact:
    images = random_images(BATCH + 44)
    settings = config(len(images), 10, domain="natural", embed={"cached_views": 3}, select={"max_neighbors": 7})
    return embed.run(images, Pixels(), settings, CONTEXT)  # type: ignore[arg-type]


def test_embeddings_have_the_shapes_and_types_promised(pixels_embedded: Artefact) -> None:
    n, found = BATCH + 44, pixels_embedded.tensors
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()} == {
        "plain": ((n, 64), torch.float32),
        "weak": ((3, n, 64), torch.float16),
        "strong": ((3, n, 64), torch.float16),
        "neighbors": ((n, 7), torch.int32),
    }
    for name in ("plain", "weak", "strong"):
        lengths = found[name].float().norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=2e-3)


def test_plain_embeddings_are_those_of_the_images_in_their_order(pixels_embedded: Artefact) -> None:
    expected = F.normalize(random_images(BATCH + 44).flatten(1).float(), dim=1)
    torch.testing.assert_close(pixels_embedded.tensors["plain"], expected)
    neighbors, _ = nearest_neighbors(expected, 7)
    assert torch.equal(pixels_embedded.tensors["neighbors"].long(), neighbors)


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_every_cached_view_is_of_its_image_and_is_new(pixels_embedded: Artefact, kind: str) -> None:
    images = random_images(BATCH + 44).float() / 255
    views = pixels_embedded.tensors[kind].float()
    assert not torch.equal(views[0], views[1])
    # An image's views lie nearer to it, mirrored or moved by a pixel or neither, than to other images.
    rolls = [images.roll((y, x), dims=(2, 3))[:, :, 1:-1, 1:-1] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    moved = [*rolls, *(m.flip(3) for m in rolls)]
    candidates = [F.normalize(m.flatten(1) - m.flatten(1).mean(dim=1, keepdim=True), dim=1) for m in moved]
    right = []
    for view in views:
        inner = view.view(-1, SIDE, SIDE)[:, 1:-1, 1:-1].flatten(1)
        inner = F.normalize(inner - inner.mean(dim=1, keepdim=True), dim=1)
        nearest = torch.stack([inner @ c.T for c in candidates]).amax(dim=0).argmax(dim=1)
        right.append(float((nearest == torch.arange(len(images))).float().mean()))
    assert min(right) > (0.99 if kind == "weak" else 0.3)  # 1 in 300 by chance


def test_batches_draw_views_of_their_own() -> None:
    images = random_images(1).expand(2 * BATCH, -1, -1, -1)
    settings = config(len(images), 10, embed={"cached_views": 1}, select={"max_neighbors": 1})
    strong = embed.run(images, Pixels(), settings, CONTEXT).tensors["strong"][0]  # type: ignore[arg-type]
    assert not torch.equal(strong[:BATCH], strong[BATCH:])


def test_embedding_depends_on_the_seed_alone_and_not_on_the_mode_of_the_encoder() -> None:
    images, _ = variations()
    settings = config(len(images), 6, domain="natural", embed={"cached_views": 1})
    encoder = pretrain.new_encoder(images, settings, CONTEXT)
    statistics = encoder.backbone.get_buffer("1.running_mean").clone()
    first = embed.run(images, encoder.train(), settings, CONTEXT)
    torch.manual_seed(3)
    assert same(embed.run(images, encoder.eval(), settings, CONTEXT), first)
    assert torch.equal(encoder.backbone.get_buffer("1.running_mean"), statistics)
    other = embed.run(images, encoder, settings, Context(1, CPU, bf16=False))
    assert torch.equal(other.tensors["plain"], first.tensors["plain"])
    assert not torch.equal(other.tensors["weak"], first.tensors["weak"])


def test_without_cached_views_there_are_none() -> None:
    images, _ = bars(10)
    settings = config(len(images), 3, embed={"cached_views": 0}, select={"max_neighbors": 4})
    encoder = pretrain.new_encoder(images, settings, CONTEXT)
    found = embed.run(images, encoder, settings, CONTEXT)
    assert found.tensors.keys() == {"plain", "neighbors"}
    assert found.facts == {"neighbors": "exact", "recall": 1.0}
    kept = embed.run(images, encoder, config(len(images), 3, select={"max_neighbors": 4}), CONTEXT)
    assert all(torch.equal(tensor, kept.tensors[name]) for name, tensor in found.tensors.items())


# Stage 2


@functools.cache
def blobs(dim: int = 128, classes: int = 3, per_class: int = 40) -> tuple[Artefact, Tensor]:
    """Embeddings around as many axes as classes, in shuffled order, their views, and the classes."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(classes).repeat(per_class)[torch.randperm(classes * per_class, generator=generator)]
    centres = torch.eye(dim)[kinds]

    def scattered(*shape: int) -> Tensor:
        noise = torch.randn((*shape, *centres.shape), generator=generator)
        return F.normalize(centres + noise * (0.45 / math.sqrt(dim)), dim=-1)

    plain = scattered()
    neighbors, _ = nearest_neighbors(plain, 30)
    views = {kind: scattered(2).half() for kind in ("weak", "strong")}
    return Artefact({"plain": plain, **views, "neighbors": neighbors.int()}), kinds


def self_config(n: int, **changes: Any) -> FitConfig:
    return config(n, 3, self_label={"heads": 4, "rounds": 40, **changes})


@functools.cache
def labelled_blobs() -> Artefact:
    embedded, classes = blobs()
    return self_label.run(CachedFeatures(embedded), self_config(len(classes)), CONTEXT)


@pytest.mark.parametrize("changes", [{}, {"heads": 8}, {"meta_batch": 50}, {"passes": 3}, {"ratio": 1.0}])
def test_self_labelling_finds_three_blobs(changes: dict[str, Any]) -> None:
    embedded, classes = blobs()
    artefact = self_label.run(CachedFeatures(embedded), self_config(len(classes), **changes), CONTEXT)
    assert accuracy(artefact.tensors["probabilities"].argmax(dim=1), classes) == 1


def test_the_kept_head_is_the_most_consistent_and_its_weights_give_its_labels() -> None:
    embedded, classes = blobs(dim=8)  # so few dimensions that heads learn slowly and end apart
    settings = self_config(len(classes), heads=10)
    artefact = self_label.run(CachedFeatures(embedded), settings, Context(5, CPU, bf16=False))
    found, facts = artefact.tensors, artefact.facts
    assert facts["kept"] != 0
    assert (found["head_labels"].shape, found["head_labels"].dtype) == ((10, len(classes)), torch.int16)
    neighbors = embedded.tensors["neighbors"][:, :20].long()
    scores = [consistency(labels.long(), neighbors, 3) for labels in found["head_labels"]]
    assert facts["consistency"] == pytest.approx(scores)
    assert scores[facts["kept"]] == max(scores)
    assert torch.equal(found["head_labels"][facts["kept"]].long(), found["probabilities"].argmax(dim=1))

    head = build_head(8, 3)
    head.load_state_dict({name.removeprefix("head."): t for name, t in found.items() if name.startswith("head.")})
    with torch.no_grad():
        probabilities = head(embedded.tensors["plain"]).softmax(dim=1)
    torch.testing.assert_close(probabilities, found["probabilities"])


@pytest.mark.parametrize(("dim", "seed"), [(8, 5), (16, 2)])
def test_of_equally_consistent_heads_one_that_fills_all_clusters_is_kept(dim: int, seed: int) -> None:
    # Two blobs under one label agree with their neighbours as well as three blobs under three. In few dimensions heads
    # learn slowly, and 40 rounds leave some of either kind.
    embedded, classes = blobs(dim)
    settings = self_config(len(classes), heads=10)
    artefact = self_label.run(CachedFeatures(embedded), settings, Context(seed, CPU, bf16=False))
    scores = artefact.facts["consistency"]
    used = [len(labels.unique()) for labels in artefact.tensors["head_labels"]]
    best = [filled for filled, score in zip(used, scores, strict=True) if score > max(scores) - 1e-9]
    assert used[artefact.facts["kept"]] == max(best)


def test_self_labelling_takes_the_steps_that_its_config_names() -> None:
    embedded, classes = blobs()
    settings = self_config(len(classes), rounds=3, passes=2, meta_batch=90, batch_size=40)
    curve = self_label.run(CachedFeatures(embedded), settings, CONTEXT).facts["loss"]
    assert len(curve) == 3 * 2 * 3  # 90 pseudo-labels in batches of 40: three of them, the last smaller


class Asked(CachedFeatures):
    """Keeps which strong views are asked for, and of which images."""

    def __init__(self, embedded: Artefact) -> None:
        super().__init__(embedded)
        self.strongly: list[tuple[int, list[int]]] = []

    def strong(self, view: int | Tensor, rows: Tensor) -> Tensor:
        self.strongly.append((int(view), rows.tolist()))
        return super().strong(view % len(self._strong), rows)

    def weak(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return super().weak(view % len(self._weak), rows)


def test_self_labelling_sees_a_view_of_each_image_in_a_pass_whatever_the_number_of_heads() -> None:
    embedded, classes = blobs()
    features = Asked(embedded)
    settings = self_config(len(classes), rounds=3, passes=2, meta_batch=90, batch_size=40)
    self_label.run(features, settings, CONTEXT)
    assert [view for view, _ in features.strongly] == [(start + again) % 2 for start in range(3) for again in range(2)]
    for first, second in zip(features.strongly[::2], features.strongly[1::2], strict=True):
        assert first[1] == second[1]  # the meta-batch of the round
        assert len(first[1]) == 90
    seen = Counter(row for _, rows in features.strongly for row in rows)
    assert set(seen) == set(range(len(classes)))  # 3 x 90 of 120 images: an epoch and more


def test_no_view_is_asked_for_twice_where_each_is_made_when_asked() -> None:
    """Fresh views follow from their number and the images in their order, also where a meta-batch holds all images."""
    embedded, classes = blobs()
    features = Asked(embedded)
    features.views = 2**31 - 1
    self_label.run(features, self_config(len(classes), rounds=4, passes=5, meta_batch=120, batch_size=60), CONTEXT)
    assert len(features.strongly) == len({(view, tuple(rows)) for view, rows in features.strongly}) == 20


@pytest.mark.parametrize("step", [1, 3, 4, 8])
def test_self_labelling_goes_on_in_the_midst_of_a_round(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SECONDS", -1.0)
    monkeypatch.setattr(snapshots, "SHARE", float("inf"))
    embedded, classes = blobs()
    settings = self_config(len(classes), rounds=3, passes=2, meta_batch=90, batch_size=45)  # four steps in a round
    save = Snapshots.save

    class Cut(BaseException):
        pass

    def cut(self: Snapshots, name: str, number: int, *given: Any) -> None:
        save(self, name, number, *given)
        if number == step:
            raise Cut

    kept = replace(CONTEXT, snapshots=Snapshots(tmp_path, "k", CPU))
    with monkeypatch.context() as patched:
        patched.setattr(Snapshots, "save", cut)
        with pytest.raises(Cut):
            self_label.run(CachedFeatures(embedded), settings, kept)
    features = Asked(embedded)
    assert same(self_label.run(features, settings, kept), self_label.run(CachedFeatures(embedded), settings, CONTEXT))
    assert len(features.strongly) == 6 - step // 2  # passes that are left, the broken one among them


def test_the_loss_of_self_labelling_falls_within_its_limits() -> None:
    curve = labelled_blobs().facts["loss"]
    most = math.log(math.e + 2)  # of three clusters, for one head
    assert all(4 * (most - 1) <= loss <= 4 * most for loss in curve)
    assert np.mean(curve[-5:]) < np.mean(curve[:5])
    assert curve[-1] < 4 * math.log(3) - 0.3  # log C is what even probabilities cost


def test_self_labelling_depends_on_seed_and_config_alone() -> None:
    embedded, classes = blobs()
    settings = self_config(len(classes))
    torch.manual_seed(1)
    np.random.seed(1)
    assert same(self_label.run(CachedFeatures(embedded), settings, CONTEXT), labelled_blobs())
    other = self_label.run(CachedFeatures(embedded), settings, Context(1, CPU, bf16=False))
    assert not torch.equal(other.tensors["probabilities"], labelled_blobs().tensors["probabilities"])


def test_self_labelling_leaves_its_input_as_it_was() -> None:
    embedded, classes = blobs()
    before = {name: tensor.clone() for name, tensor in embedded.tensors.items()}
    self_label.run(CachedFeatures(embedded), self_config(len(classes), rounds=2), CONTEXT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in embedded.tensors.items())


# Stage 2 of SCAN


def scan_config(n: int, **changes: Any) -> FitConfig:
    return config(n, 3, scan={"heads": 4, "steps": 200, **changes})


def with_tensors(artefact: Artefact, **changes: Tensor) -> Artefact:
    return Artefact({**artefact.tensors, **changes})


@functools.cache
def scanned_blobs() -> Artefact:
    embedded, classes = blobs()
    return scan.run(CachedFeatures(embedded), scan_config(len(classes)), CONTEXT)


@pytest.mark.parametrize("changes", [{}, {"heads": 1}, {"neighbors": 1}, {"batch_size": 50}])
def test_every_scan_head_finds_three_blobs(changes: dict[str, Any]) -> None:
    embedded, classes = blobs()
    artefact = scan.run(CachedFeatures(embedded), scan_config(len(classes), **changes), CONTEXT)
    assert [accuracy(labels.long(), classes) for labels in artefact.tensors["head_labels"]] == [1] * len(
        artefact.facts["scores"]
    )


def test_without_the_entropy_term_scan_puts_everything_into_one_cluster() -> None:
    embedded, classes = blobs()
    artefact = scan.run(CachedFeatures(embedded), scan_config(len(classes), entropy_weight=0), CONTEXT)
    assert [len(labels.unique()) for labels in artefact.tensors["head_labels"]] == [1] * 4


def test_scan_groups_by_neighbours_and_not_by_place() -> None:
    # Six blobs; the neighbours of an image lie in its own blob and in one other: three clusters of two blobs each.
    embedded, blob = blobs(classes=6, per_class=20)
    partner = torch.tensor([3, 4, 5, 0, 1, 2])[blob]
    members = torch.stack([(blob == number).nonzero().squeeze(1) for number in range(6)])
    neighbors = torch.cat([members[partner, :10], members[blob, :10]], dim=1)[
        :, torch.arange(20).view(2, 10).T.flatten()
    ]
    paired = with_tensors(embedded, neighbors=neighbors.int())
    artefact = scan.run(CachedFeatures(paired), scan_config(len(blob), steps=400), CONTEXT)
    assert accuracy(artefact.tensors["probabilities"].argmax(dim=1), blob % 3) == 1


def test_scan_keeps_the_head_of_the_lowest_loss_over_plain_images_and_all_neighbours() -> None:
    embedded, classes = blobs(dim=8)
    settings = scan_config(len(classes))
    artefact = scan.run(CachedFeatures(embedded), settings, Context(1, CPU, bf16=False))
    found, facts = artefact.tensors, artefact.facts
    assert facts["scores"][facts["kept"]] == min(facts["scores"])
    # The most consistent head, or the first of several, is another one.
    assert facts["consistency"].index(max(facts["consistency"])) != facts["kept"]
    near = embedded.tensors["neighbors"][:, :20].long()
    assert facts["consistency"] == pytest.approx([consistency(own.long(), near, 3) for own in found["head_labels"]])
    assert (found["head_labels"].shape, found["head_labels"].dtype) == ((4, len(classes)), torch.int16)
    assert torch.equal(found["head_labels"][facts["kept"]].long(), found["probabilities"].argmax(dim=1))

    p = found["probabilities"].double()
    shares = p.mean(dim=0)
    pairs = (p.unsqueeze(1) * p[near]).sum(dim=2)  # equation 2 over N and K
    expected = float(-pairs.log().mean() + 5 * (shares * shares.log()).sum())
    assert facts["scores"][facts["kept"]] == pytest.approx(expected, rel=1e-4)

    head = build_head(8, 3)
    head.load_state_dict({name.removeprefix("head."): t for name, t in found.items() if name.startswith("head.")})
    with torch.no_grad():
        torch.testing.assert_close(head(embedded.tensors["plain"]).softmax(dim=1), found["probabilities"])


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_scan_learns_from_both_kinds_of_views_and_from_every_one(kind: str) -> None:
    embedded, classes = blobs()
    settings = scan_config(len(classes), steps=20)
    first = scan.run(CachedFeatures(embedded), settings, CONTEXT).tensors["probabilities"]
    for view in range(2):
        views = embedded.tensors[kind].clone()
        views[view] = views[view].roll(1, dims=0)
        other = scan.run(CachedFeatures(with_tensors(embedded, **{kind: views})), settings, CONTEXT).tensors[
            "probabilities"
        ]
        assert not torch.equal(first, other)


@pytest.mark.parametrize(("column", "used"), [(0, True), (2, True), (3, False)])
def test_scan_looks_at_the_nearest_neighbours_alone(column: int, used: bool) -> None:
    embedded, classes = blobs()
    settings = scan_config(len(classes), neighbors=3, steps=20)
    changed = embedded.tensors["neighbors"].clone()
    changed[:, column] = changed[:, column].roll(1)
    other = scan.run(CachedFeatures(with_tensors(embedded, neighbors=changed)), settings, CONTEXT)
    first = scan.run(CachedFeatures(embedded), settings, CONTEXT)
    assert torch.equal(other.tensors["probabilities"], first.tensors["probabilities"]) is not used
    assert (other.facts["scores"] == first.facts["scores"]) is not used


def test_scan_depends_on_seed_and_config_alone_and_leaves_its_input() -> None:
    embedded, classes = blobs()
    settings = scan_config(len(classes))
    before = {name: tensor.clone() for name, tensor in embedded.tensors.items()}
    torch.manual_seed(1)
    assert same(scan.run(CachedFeatures(embedded), settings, CONTEXT), scanned_blobs())
    assert all(torch.equal(tensor, before[name]) for name, tensor in embedded.tensors.items())
    assert len(scanned_blobs().facts["loss"]) == 200
    other = scan.run(CachedFeatures(embedded), settings, Context(1, CPU, bf16=False))
    assert not torch.equal(other.tensors["probabilities"], scanned_blobs().tensors["probabilities"])


# Stage 2b


@st.composite
def labellings(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Probabilities, neighbours and C: from sure and sorted to none of it, with empty clusters."""
    n, clusters = draw(st.integers(2, 30)), draw(st.integers(2, 5))
    numbers = Random(draw(st.integers(0, 2**31)))
    used = draw(st.integers(1, clusters))
    logits = torch.full((n, clusters), -20.0)
    logits[:, :used] = torch.tensor([[numbers.gauss(0, 3) for _ in range(used)] for _ in range(n)])
    k = draw(st.integers(1, n - 1))
    neighbors = torch.tensor([numbers.sample([j for j in range(n) if j != i], k) for i in range(n)])
    return logits.softmax(dim=1), neighbors.int(), clusters


@given(labellings())
def test_selecting_is_never_in_vain(labelling: tuple[Tensor, Tensor, int]) -> None:
    probabilities, neighbors, clusters = labelling
    n = len(probabilities)
    artefact = select.run(probabilities, neighbors, config(max(n, 2 * clusters), clusters), CONTEXT)
    labels, reliable = artefact.tensors["labels"], artefact.tensors["reliable"]
    assert (labels.dtype, reliable.dtype) == (torch.int64, torch.uint8)
    assert torch.equal(labels, probabilities.argmax(dim=1))
    assert set(reliable.tolist()) <= {0, 1}
    assert reliable.sum() >= 1
    present = labels.bincount(minlength=clusters) > 0
    counts = [int(((labels == cluster) & (reliable == 1)).sum()) for cluster in range(clusters)]
    assert [count > 0 for count in counts] == present.tolist()
    assert artefact.facts["per_cluster"] == counts
    assert artefact.facts["share"] == pytest.approx(sum(counts) / n)
    assert 1 <= artefact.facts["neighbors"] <= neighbors.shape[1]


def test_selecting_judges_by_the_derived_number_of_neighbours() -> None:
    # Of each image's ten neighbours the nearest five agree, the others do not.
    labels = torch.tensor([0] * 10 + [1] * 10)
    own = [[(i + step) % 10 + 10 * (i // 10) for step in range(1, 6)] for i in range(20)]
    others = [[(i + 10 + step) % 20 for step in range(5)] for i in range(20)]
    others = [[j if labels[j] != labels[i] else (j + 10) % 20 for j in row] for i, row in enumerate(others)]
    neighbors = torch.cat([torch.tensor(own), torch.tensor(others)], dim=1)
    artefact = select.run(0.9 * F.one_hot(labels, 2) + 0.05, neighbors, config(20, 2), CONTEXT)
    assert artefact.facts == {"neighbors": 5, "share": 1.0, "per_cluster": [10, 10]}


def test_selecting_leaves_out_images_that_lie_among_others() -> None:
    embedded, classes = blobs()
    probabilities = 0.9 * F.one_hot(classes, 3).float() + 0.1 / 3
    wrong = torch.tensor([0, 7, 50])
    probabilities[wrong] = probabilities[wrong].roll(1, dims=1)
    settings = config(len(classes), 3, select={"agreement": 0.8})
    artefact = select.run(probabilities, embedded.tensors["neighbors"], settings, CONTEXT)
    reliable = artefact.tensors["reliable"].bool()
    assert not reliable[wrong].any()
    assert reliable.sum() == len(classes) - 3
    assert artefact.facts["neighbors"] == 30


# Stage 3


def selected(labels: Tensor, reliable: Tensor) -> Artefact:
    return Artefact({"labels": labels, "reliable": reliable.byte()})


def shown(images: Tensor, settings: FitConfig) -> PixelSight:
    return PixelSight(images, Views(settings.views))


def untrained(images: Tensor, settings: FitConfig) -> Classifier:
    encoder = pretrain.new_encoder(images, settings, CONTEXT)
    return Classifier(encoder, ClusterHeads(1, encoder.n_features, settings.n_clusters, seed=0).extract(0))


SEMI = {"steps": 60, "batch_size": 16, "unlabelled_ratio": 2, "ema": 0.9, "threshold": 0.6, "learning_rate": 0.03}


def test_semi_learns_the_reliable_labels_and_no_others() -> None:
    images, classes = bars()
    settings = config(len(images), 3, semi=SEMI)
    reliable = torch.arange(len(images)) < 24  # eight of each class
    labels = torch.where(reliable, classes, (classes + 1) % 3)  # all others are wrong
    classifier = untrained(images, settings)
    artefact = semi.run(shown(images, settings), classifier, selected(labels, reliable), settings, CONTEXT)
    classifier.load_state_dict(dict(artefact.tensors))
    with torch.no_grad():
        found = classifier.eval()(images.float() / 255).argmax(dim=1)
    assert torch.equal(found, classes)
    assert 0 < artefact.facts["used"] <= 1
    assert np.mean(artefact.facts["loss"][-10:]) < np.mean(artefact.facts["loss"][:10])


def test_semi_trains_a_copy_and_depends_on_seed_and_config_alone() -> None:
    images, classes = bars(10)
    settings = config(len(images), 3, semi={**SEMI, "steps": 3})
    classifier = untrained(images, settings).eval()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    chosen = selected(classes, torch.ones(len(classes)))
    torch.manual_seed(1)
    first = semi.run(shown(images, settings), classifier, chosen, settings, CONTEXT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert not classifier.training
    torch.manual_seed(2)
    assert same(semi.run(shown(images, settings), classifier, chosen, settings, CONTEXT), first)
    assert first.tensors.keys() == before.keys()
    other = semi.run(shown(images, settings), classifier, chosen, settings, Context(1, CPU, bf16=False))
    assert not torch.equal(other.tensors["head.0.weight"], first.tensors["head.0.weight"])


def test_semi_takes_more_unlabelled_images_than_there_are() -> None:
    images, classes = bars(4)
    settings = config(len(images), 3, semi={**SEMI, "steps": 2, "unlabelled_ratio": 5})
    chosen = selected(classes, torch.ones(len(classes)))
    assert (
        len(semi.run(shown(images, settings), untrained(images, settings), chosen, settings, CONTEXT).facts["loss"])
        == 2
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40), st.integers(1, 30))
def test_the_sampler_draws_reliable_images_in_equal_shares(images: list[tuple[int, bool]], count: int) -> None:
    images[0] = images[0][0], True  # the reliable set is never empty
    labels, reliable = torch.tensor([label for label, _ in images]), torch.tensor([mark for _, mark in images])
    sampler = semi._BalancedSampler(labels, reliable)
    drawn = sampler.draw(count, torch.Generator().manual_seed(0))
    assert (drawn.shape, drawn.dtype) == ((count,), torch.int64)
    assert reliable[drawn].all()
    present = labels[reliable].unique()
    shares = [int((labels[drawn] == cluster).sum()) for cluster in present]
    assert max(shares) - min(shares) <= 1


def test_the_sampler_reaches_every_reliable_image_equally() -> None:
    labels = torch.tensor([2, 0, 2, 0, 2, 0, 1])
    reliable = torch.tensor([1, 1, 1, 1, 1, 0, 0]).bool()
    sampler, generator = semi._BalancedSampler(labels, reliable), torch.Generator().manual_seed(0)
    counts = torch.cat([sampler.draw(3, generator) for _ in range(2000)]).bincount(minlength=7)
    # 6,000 draws: half of them cluster 0 (two images), half cluster 2 (three), none cluster 1
    expected = torch.tensor([1000, 1500, 1000, 1500, 1000, 0, 0])
    assert (counts - expected).abs().max() < 150
    assert counts[5:].tolist() == [0, 0]


# Stage 3 of SCAN

CONFIDENT = {"steps": 60, "batch_size": 32, "ema": 0.9, "threshold": 0.9, "learning_rate": 0.03}


@functools.cache
def half_taught() -> tuple[Classifier, float]:
    """A classifier of `bars` that is right about most of them, and its accuracy."""
    images, classes = bars()
    settings = config(len(images), 3, semi={**SEMI, "steps": 12, "ema": 0.5, "unlabelled_weight": 0})
    classifier = untrained(images, settings)
    reliable = torch.arange(len(images)) < 24
    classifier.load_state_dict(
        dict(semi.run(shown(images, settings), classifier, selected(classes, reliable), settings, CONTEXT).tensors)
    )
    return classifier.eval(), accuracy(labels_by(classifier, images), classes)


def labels_by(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier.eval()(images.float() / 255).argmax(dim=1)


def test_the_confident_images_teach_the_others() -> None:
    images, classes = bars()
    classifier, before = half_taught()
    settings = config(len(images), 3, confident=CONFIDENT)
    nothing = selected(torch.zeros(len(images)).long(), torch.zeros(len(images)))  # what select says is not asked
    artefact = confident.run(shown(images, settings), classifier, nothing, settings, CONTEXT)
    taught = untrained(images, settings)
    taught.load_state_dict(dict(artefact.tensors))
    assert before < 0.95
    assert accuracy(labels_by(taught, images), classes) > before + 0.03
    assert 0 < artefact.facts["used"] <= 1
    assert len(artefact.facts["loss"]) == 60


def test_where_no_image_is_confident_the_surest_of_each_cluster_teach() -> None:
    images, classes = bars()
    settings = config(len(images), 3, confident={**CONFIDENT, "threshold": 1 - 1e-9, "steps": 10, "floor": 0.25})
    classifier = untrained(images, settings)
    chosen = selected(classes, torch.ones(len(classes)))
    artefact = confident.run(shown(images, settings), classifier, chosen, settings, CONTEXT)
    assert all(math.isfinite(loss) for loss in artefact.facts["loss"])
    assert all(torch.isfinite(tensor).all() for tensor in artefact.tensors.values())
    assert 8 / 32 <= artefact.facts["used"] <= 10 / 32  # a quarter of 32, rounded up in each of three clusters


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_confident_learns_on_strong_views_what_weak_ones_teach(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes = bars(10)
    classifier, _ = half_taught()
    settings = config(len(images), 3, confident={**CONFIDENT, "steps": 2})
    chosen = selected(classes, torch.ones(len(classes)))
    first = confident.run(shown(images, settings), classifier, chosen, settings, CONTEXT)
    monkeypatch.setattr(Views, kind, lambda self, batch, *draws: torch.zeros(batch.shape))  # nothing to be seen
    blind = confident.run(shown(images, settings), classifier, chosen, settings, CONTEXT)
    assert not torch.equal(blind.tensors["head.0.weight"], first.tensors["head.0.weight"])


def test_confident_trains_a_copy_and_ships_its_moving_average() -> None:
    images, classes = bars(10)
    classifier, _ = half_taught()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    chosen = selected(classes, torch.ones(len(classes)))
    settings = config(len(images), 3, confident={**CONFIDENT, "steps": 3})
    first = confident.run(shown(images, settings), classifier, chosen, settings, CONTEXT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert first.tensors.keys() == before.keys()
    assert not torch.equal(first.tensors["head.0.weight"], before["head.0.weight"])
    torch.manual_seed(2)
    assert same(confident.run(shown(images, settings), classifier, chosen, settings, CONTEXT), first)
    other = confident.run(shown(images, settings), classifier, chosen, settings, Context(1, CPU, bf16=False))
    assert not torch.equal(other.tensors["head.0.weight"], first.tensors["head.0.weight"])
    slow = config(len(images), 3, confident={**CONFIDENT, "steps": 3, "ema": 1 - 1e-7})
    for name, tensor in confident.run(shown(images, settings), classifier, chosen, slow, CONTEXT).tensors.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-5)


# The guard


def bar_classifier(*templates: int) -> Classifier:
    """Reads `bars` off their pixels: cluster number i is what looks like bar number templates[i]."""
    looks = torch.zeros(3, SIDE, SIDE)
    looks[0, 3:5] = 1
    looks[1, :, 3:5] = 1
    looks[2, torch.arange(SIDE), torch.arange(SIDE)] = 1.5
    head = nn.Linear(SIDE * SIDE, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(looks.flatten(1)[list(templates)] * 10)
    return Classifier(Pixels(), head)  # type: ignore[arg-type]


def careless_classifier() -> Classifier:
    """Puts bars into clusters by their noise."""
    classifier = bar_classifier(0, 1, 2)
    with torch.no_grad():
        classifier.head.weight.copy_(torch.randn((3, SIDE * SIDE), generator=torch.Generator().manual_seed(0)))
        classifier.head.weight[:, bars()[0].float().mean(dim=0).flatten() > 30] = 0
    return classifier


@pytest.fixture(scope="module")
def judged() -> tuple[Tensor, Tensor, Tensor]:
    """Images, their classes, and the neighbours of a stage 1 that sees what they are."""
    images, classes = bars()
    neighbors, _ = nearest_neighbors(F.normalize(images.flatten(1).float(), dim=1), 10)
    return images, classes, neighbors.int()


def clusters_of(classifier: Classifier, images: Tensor) -> Tensor:
    return classify(classifier, images, CPU)[0].argmax(dim=1)


def verdict(
    judged: tuple[Tensor, Tensor, Tensor], first: Classifier, second: Classifier | None, margin: float = 0.0
) -> Artefact:
    images, classes, neighbors = judged
    opinions = F.one_hot(classes, 3).float()
    return guard.run(images, first, second, opinions, neighbors, margin, config(len(images), 3), CONTEXT)


@pytest.mark.parametrize("better", ["3-self", "5-semi"])
def test_the_guard_ships_what_parts_the_images_better(judged: tuple[Tensor, Tensor, Tensor], better: str) -> None:
    images, classes, neighbors = judged
    good, bad = bar_classifier(0, 1, 2), careless_classifier()
    found = verdict(judged, *((good, bad) if better == "3-self" else (bad, good)))
    assert found.facts["shipped"] == better
    labels = clusters_of(good, images)
    assert torch.equal(labels, classes)
    # Both stages see the pixels here, so the mean over the two spaces is the score in either.
    scores = found.facts["scores"]
    assert found.facts["by_stage_1"] == pytest.approx(scores[better])
    assert scores[better] == pytest.approx(partition_score(labels, neighbors.long(), 3))
    assert min(scores.values()) < scores[better] - 0.3
    assert found.facts["agreement"] == 1  # of the heads with what ships


def test_without_a_stage_3_stage_2_ships_and_is_judged_all_the_same(judged: tuple[Tensor, Tensor, Tensor]) -> None:
    images, _, neighbors = judged
    found = verdict(judged, bar_classifier(1, 2, 0), None, margin=9.0).facts
    score = partition_score(clusters_of(bar_classifier(1, 2, 0), images), neighbors.long(), 3)
    assert found["shipped"] == "3-self"
    assert found["scores"] == {"3-self": pytest.approx(score)}
    assert found["by_stage_1"] == pytest.approx(score)
    assert found["agreement"] == 1
    assert verdict(judged, careless_classifier(), None).facts["agreement"] < 0.9


def test_the_guard_ignores_the_numbers_of_clusters_and_of_equals_ships_the_later(
    judged: tuple[Tensor, Tensor, Tensor],
) -> None:
    found = verdict(judged, bar_classifier(0, 1, 2), bar_classifier(1, 2, 0))
    assert found.facts["scores"]["3-self"] == pytest.approx(found.facts["scores"]["5-semi"])
    assert found.facts["agreement"] == 1
    assert verdict(judged, bar_classifier(0, 1, 2), bar_classifier(0, 1, 2)).facts["shipped"] == "5-semi"


def test_stage_2_must_win_by_the_margin(judged: tuple[Tensor, Tensor, Tensor]) -> None:
    scores = verdict(judged, bar_classifier(0, 1, 2), careless_classifier()).facts["scores"]
    lead = scores["3-self"] - scores["5-semi"]
    for margin, shipped in ((lead - 1e-6, "3-self"), (lead + 1e-6, "5-semi")):
        found = verdict(judged, bar_classifier(0, 1, 2), careless_classifier(), margin)
        assert found.facts["shipped"] == shipped


def test_everything_in_one_cluster_does_not_ship(judged: tuple[Tensor, Tensor, Tensor]) -> None:
    found = verdict(judged, bar_classifier(2, 2, 2), bar_classifier(0, 1, 2))
    assert found.facts["shipped"] == "5-semi"
    assert found.facts["scores"]["3-self"] == pytest.approx(-math.log(0.01))  # nothing parted, nothing told


def test_a_labelling_that_leaves_a_cluster_empty_does_not_ship_where_the_other_fills_them_all(
    judged: tuple[Tensor, Tensor, Tensor],
) -> None:
    # Lying bars in cluster 0, all others in cluster 2: neighbours agree as well as with three clusters.
    merged = bar_classifier(0, 0, 2)
    with torch.no_grad():
        merged.head.weight[1] = 0
        merged.head.weight[2] += bar_classifier(1, 1, 1).head.weight[0]
    found = verdict(judged, merged, bar_classifier(0, 1, 2))
    assert len(clusters_of(merged, judged[0]).unique()) == 2
    assert found.facts["shipped"] == "5-semi"


class Corner(nn.Module):
    """An encoder that sees two dark rows beside the bars: nothing but noise."""

    n_features = 4

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0:2, 5:7].flatten(1)


def test_the_guard_scores_both_labellings_in_both_spaces(judged: tuple[Tensor, Tensor, Tensor]) -> None:
    images, classes, neighbors = judged
    noise = Classifier(Corner(), ClusterHeads(1, 4, 3, seed=0).extract(0))  # type: ignore[arg-type]
    with torch.no_grad():
        labels = noise(images.float() / 255).argmax(dim=1)
        other, _ = nearest_neighbors(noise.embed(images.float() / 255), 10)
    found = verdict(judged, bar_classifier(0, 1, 2), noise).facts["scores"]
    for name, own in (("3-self", classes), ("5-semi", labels)):
        expected = (partition_score(own, neighbors.long(), 3) + partition_score(own, other, 3)) / 2
        assert found[name] == pytest.approx(expected)


def ships(shipped: str, score: float, agreement: float = 0.9) -> Artefact:
    scores = {"3-self": 9.0, "5-semi": 9.0}
    return Artefact({}, {"shipped": shipped, "by_stage_1": score, "agreement": agreement, "scores": scores})


DISSENT = -math.log(0.11)  # of an agreement of 0.9


def test_neighbours_views_and_heads_choose_together() -> None:
    ab = {"a": ships("5-semi", 5.0), "b": ships("5-semi", 4.5)}
    chosen, together = guard.choose(ab, {"a": 0.79, "b": 0.89})
    assert together == {
        "a": pytest.approx(5 - math.log(0.22) + DISSENT),
        "b": pytest.approx(4.5 - math.log(0.12) + DISSENT),
    }
    assert chosen == "b"  # the views outweigh half a point
    assert guard.choose({**ab, "b": ships("5-semi", 4.3)}, {"a": 0.79, "b": 0.89})[0] == "a"
    assert guard.choose({**ab, "b": ships("5-semi", 4.5, 0.8)}, {"a": 0.79, "b": 0.89})[0] == "a"  # the heads dissent
    assert guard.choose({**ab, "b": ships("5-semi", 5.0)}, {"a": 1.0, "b": 1.0})[0] == "a"  # of equals the first


def test_a_stage_3_that_is_refused_does_not_speak_for_its_clustering() -> None:
    ran_away = {"a": ships("3-self", 5.0), "b": ships("5-semi", 4.9)}
    chosen, together = guard.choose(ran_away, {"a": 1.0, "b": 0.86})
    assert chosen == "b"
    assert together["a"] == pytest.approx(5 - math.log(1.01) + DISSENT)


def test_only_prototypes_need_no_margin_against_stage_3() -> None:
    assert guard.margin_of("prototypes") == 0
    assert guard.margin_of("cuts") == guard.margin_of("neighbors") == guard.MARGIN > 0


# All stages


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("n", "clusters", "channels"), [(4, 2, 1), (10, 5, 3)])
@pytest.mark.parametrize(("clustering", "retraining"), [(self_label, semi), (graph_label, semi), (scan, confident)])
def test_the_smallest_set_passes_all_stages(
    clustering: Any, retraining: Any, n: int, clusters: int, channels: int, bf16: bool
) -> None:
    context = Context(0, CPU, bf16)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    settings = config(
        n,
        clusters,
        channels,
        pretrain={"epochs": 2, "neighbor_share": 0.5, "neighbor_start": 0},
        embed={"cached_views": 1},
        self_label={"rounds": 2, "heads": 2},
        graph_label={"steps": 2, "heads": 2},
        semi={"steps": 2, "batch_size": 4, "unlabelled_ratio": 2},
        scan={"steps": 3},
        confident={"steps": 2, "batch_size": 4},
    )
    pretrained = pretrain.run(images, settings, context)
    encoder = pretrain.new_encoder(images, settings, context)
    encoder.load_state_dict(dict(pretrained.tensors))
    embedded = embed.run(images, encoder, settings, context)
    labelled = clustering.run(CachedFeatures(embedded), settings, context)
    neighbors = embedded.tensors["neighbors"]
    chosen = select.run(labelled.tensors["probabilities"], neighbors, settings, context)
    first = Classifier(encoder, build_head(encoder.n_features, clusters))
    heads = {k.removeprefix("head."): t for k, t in labelled.tensors.items() if k.startswith("head.")}
    first.head.load_state_dict(heads)
    tuned = retraining.run(shown(images, settings), first, chosen, settings, context)
    second = Classifier(encoder, build_head(encoder.n_features, clusters))
    second.load_state_dict(dict(tuned.tensors))
    opinions = torch.full((n, clusters), 1 / clusters)
    found = guard.run(images, first, second, opinions, neighbors, 0.0, settings, context)
    assert found.facts["shipped"] in ("3-self", "5-semi")
    probabilities, _ = classify(second, images, CPU)
    assert probabilities.shape == (n, clusters)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(n))
    for artefact in (pretrained, embedded, labelled, tuned):
        assert all(torch.isfinite(tensor).all() for tensor in artefact.tensors.values())
