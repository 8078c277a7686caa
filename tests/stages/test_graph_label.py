"""The stage that teaches heads partitions of the neighbour graph, on embeddings of which the parts are known."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust.config import Facts, FitConfig, Request, resolve
from spiceclust.functional.metrics import score_clusters
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.functional.partition import partition_score
from spiceclust.functional.reliable import consistency
from spiceclust.models.heads import build_head
from spiceclust.stages import graph_label
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import CachedFeatures

CPU = torch.device("cpu")
CONTEXT = Context(0, CPU, bf16=False)
DIM = 64


def config(n: int, **changes: Any) -> FitConfig:
    settings = {"heads": 4, "steps": 100, "neighbors": 10, **changes}
    request = Request(n_clusters=3, image_size=8, overrides={"graph_label": settings})
    return resolve(request, Facts(n_images=n, native_size=8, channels=1, domain="glyph"))


@functools.cache
def blobs(width: float = 0.06, sizes: tuple[int, ...] = (200, 40, 25)) -> tuple[Artefact, Tensor]:
    """Embeddings around three axes, unequally many in shuffled order, two views of either kind, and the classes."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    classes = classes[torch.randperm(len(classes), generator=generator)]
    centres = torch.eye(DIM)[classes]

    def scattered(*shape: int) -> Tensor:
        return F.normalize(centres + torch.randn((*shape, *centres.shape), generator=generator) * width, dim=-1)

    plain = scattered()
    neighbors, _ = nearest_neighbors(plain, 24)
    views = {kind: scattered(2).half() for kind in ("weak", "strong")}
    return Artefact({"plain": plain, **views, "neighbors": neighbors.int()}), classes


def with_tensors(artefact: Artefact, **changes: Tensor) -> Artefact:
    return Artefact({**artefact.tensors, **changes}, artefact.facts)


def same(one: Artefact, other: Artefact) -> bool:
    return one.facts == other.facts and all(torch.equal(tensor, other.tensors[k]) for k, tensor in one.tensors.items())


def parted_as(monkeypatch: pytest.MonkeyPatch, *partitions: Tensor) -> list[tuple[Any, ...]]:
    """Gives the heads these partitions in turn; returns what was asked for."""
    asked: list[tuple[Any, ...]] = []

    def partition(*arguments: Any) -> Tensor:
        asked.append(arguments)
        return partitions[(len(asked) - 1) % len(partitions)]

    monkeypatch.setattr(graph_label, "partition", partition)
    return asked


@functools.cache
def labelled() -> Artefact:
    embedded, classes = blobs()
    return graph_label.run(CachedFeatures(embedded), config(len(classes)), CONTEXT)


@pytest.mark.parametrize("changes", [{}, {"heads": 1}, {"batch_size": 40}, {"groups_per_cluster": 4}])
def test_every_head_finds_three_blobs_of_unequal_size(changes: dict[str, Any]) -> None:
    embedded, classes = blobs()
    settings = config(len(classes), **changes)
    found = graph_label.run(CachedFeatures(embedded), settings, CONTEXT).tensors
    assert (found["head_labels"].shape, found["head_labels"].dtype) == (
        (settings.graph_label.heads, len(classes)),
        torch.int16,
    )
    for labels in (*found["head_labels"].long(), found["probabilities"].argmax(dim=1)):
        assert score_clusters(labels.numpy(), classes.numpy()).acc == 1


def test_the_kept_head_has_the_highest_score_and_its_weights_give_its_labels() -> None:
    embedded, classes = blobs()
    settings = config(len(classes), heads=6, steps=2, neighbors=12)  # so few steps that heads end apart
    artefact = graph_label.run(CachedFeatures(embedded), settings, Context(5, CPU, bf16=False))
    found, facts = artefact.tensors, artefact.facts
    assert facts.keys() == {"loss", "scores", "consistency", "kept"}
    near = embedded.tensors["neighbors"].long()
    scores = [partition_score(labels.long(), near[:, :12], 3) for labels in found["head_labels"]]
    assert facts["scores"] == pytest.approx(scores)
    assert facts["consistency"] == pytest.approx(
        [consistency(labels.long(), near[:, :20], 3) for labels in found["head_labels"]]
    )
    assert scores[facts["kept"]] == max(scores) > min(scores) + 0.1
    assert facts["kept"] != 0
    assert torch.equal(found["head_labels"][facts["kept"]].long(), found["probabilities"].argmax(dim=1))

    head = build_head(DIM, 3)
    head.load_state_dict({name.removeprefix("head."): t for name, t in found.items() if name.startswith("head.")})
    with torch.no_grad():
        probabilities = head(embedded.tensors["plain"]).softmax(dim=1)
    torch.testing.assert_close(probabilities, found["probabilities"])


def test_the_score_chooses_and_not_the_consistency(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, classes = blobs()
    wanted = iter([0.1, 0.3, 0.2, 0.3])
    monkeypatch.setattr(graph_label, "partition_score", lambda *_: next(wanted))
    monkeypatch.setattr("spiceclust.training.head_choice.consistency", lambda *_: float(next(falling)))
    falling = iter([0.9, 0.1, 0.8, 0.2])
    facts = graph_label.run(CachedFeatures(embedded), config(len(classes), steps=1), CONTEXT).facts
    assert facts["scores"] == [0.1, 0.3, 0.2, 0.3]
    assert facts["consistency"] == [0.9, 0.1, 0.8, 0.2]
    assert facts["kept"] == 1  # of equals the first


@pytest.mark.parametrize("steps", [1, 7])
def test_as_many_steps_are_taken_as_the_config_names(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, classes = blobs()
    rates = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    artefact = graph_label.run(
        CachedFeatures(embedded), config(len(classes), steps=steps, learning_rate=0.004), CONTEXT
    )
    assert len(rates) == len(artefact.facts["loss"]) == steps
    # Half a cosine from the rate that is given towards zero.
    assert rates == pytest.approx([0.002 * (1 + float(np.cos(np.pi * k / steps))) for k in range(steps)])


def test_the_loss_begins_near_log_c_for_each_head_and_falls() -> None:
    curve = labelled().facts["loss"]
    assert len(curve) == 100
    assert curve[0] == pytest.approx(4 * np.log(3), abs=0.5)
    assert curve[-1] < 0.2  # neighbours are of one class: the votes are sure, and nothing is left


def test_it_depends_on_seed_and_config_alone() -> None:
    embedded, classes = blobs()
    settings = config(len(classes))
    torch.manual_seed(1)
    np.random.seed(1)
    state = torch.get_rng_state()
    assert same(graph_label.run(CachedFeatures(embedded), settings, CONTEXT), labelled())
    assert torch.equal(torch.get_rng_state(), state)
    other = graph_label.run(CachedFeatures(embedded), settings, Context(1, CPU, bf16=False))
    assert not torch.equal(other.tensors["probabilities"], labelled().tensors["probabilities"])


def test_it_leaves_its_input_as_it_was() -> None:
    embedded, classes = blobs()
    before = {name: tensor.clone() for name, tensor in embedded.tensors.items()}
    facts = dict(embedded.facts)
    graph_label.run(CachedFeatures(embedded), config(len(classes), steps=3), CONTEXT)
    assert embedded.tensors.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in embedded.tensors.items())
    assert embedded.facts == facts


def test_each_head_learns_a_partition_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, classes = blobs()
    partitions = [classes, (classes + 1) % 3, torch.where(classes == 0, 2, 0), (classes + 2) % 3]
    parted_as(monkeypatch, *partitions)
    found = graph_label.run(CachedFeatures(embedded), config(len(classes)), CONTEXT).tensors["head_labels"]
    assert torch.equal(found.long(), torch.stack(partitions))


def test_partitions_are_asked_for_with_seeds_of_their_own_and_finer_groups_for_every_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedded, classes = blobs()
    asked = parted_as(monkeypatch, classes)
    graph_label.run(CachedFeatures(embedded), config(len(classes), groups_per_cluster=6, neighbors=7, steps=1), CONTEXT)
    assert [finer for _, _, _, finer, _ in asked] == [6, 12, 6, 12]
    seeds = [seed for *_, seed in asked]
    assert len(set(seeds)) == 4
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    for plain, neighbors, clusters, *_ in asked:
        assert torch.equal(plain, embedded.tensors["plain"])
        assert torch.equal(neighbors, embedded.tensors["neighbors"][:, :7].long())
        assert clusters == 3


@pytest.mark.parametrize(
    ("used", "near", "share"),
    [
        (1, 1, 1 / 2),  # an image and one neighbour
        (4, 4, 4 / 5),
        (24, 20, 20 / 21),  # no more than the nearest twenty vote
    ],
)
def test_heads_learn_what_an_image_and_its_neighbours_vote(
    used: int, near: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The nearest `near` neighbours of an image are of the class after its own, all others of the class after that.
    embedded, classes = blobs(width=0.005, sizes=(60, 60, 60))
    members = [(classes == kind).nonzero().squeeze(1)[:24] for kind in range(3)]
    after = torch.stack([members[(kind + 1) % 3] for kind in classes.tolist()])
    beyond = torch.stack([members[(kind + 2) % 3] for kind in classes.tolist()])
    neighbors = torch.cat([after[:, :near], beyond[:, near:]], dim=1).int()
    parted_as(monkeypatch, classes)
    settings = config(len(classes), heads=1, neighbors=used, steps=150, learning_rate=0.01)
    found = graph_label.run(CachedFeatures(with_tensors(embedded, neighbors=neighbors)), settings, CONTEXT)
    expected = F.one_hot(classes, 3) * (1 - share) + F.one_hot((classes + 1) % 3, 3) * share
    torch.testing.assert_close(found.tensors["probabilities"], expected, rtol=0, atol=0.04)


def test_an_image_that_is_parted_from_all_its_neighbours_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, classes = blobs()
    stray = classes.clone()
    stray[::9] = (stray[::9] + 1) % 3
    parted_as(monkeypatch, stray)
    found = graph_label.run(CachedFeatures(embedded), config(len(classes), heads=1), CONTEXT)
    assert torch.equal(found.tensors["probabilities"].argmax(dim=1), classes)


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("index", [0, 1])
def test_heads_learn_from_every_view(kind: str, index: int) -> None:
    embedded, classes = blobs()
    settings = config(len(classes), steps=4)
    first = graph_label.run(CachedFeatures(embedded), settings, CONTEXT)
    dark = embedded.tensors[kind].clone()
    dark[index] = 0
    other = graph_label.run(CachedFeatures(with_tensors(embedded, **{kind: dark})), settings, CONTEXT)
    assert not torch.equal(other.tensors["head.0.weight"], first.tensors["head.0.weight"])
