"""The last stage, on images whose neighbours and labels are made up."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.config import Facts, FitConfig, Request, resolve
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.models.heads import Classifier, build_head
from spiceclust.stages import calibrate
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.inference import classify

CPU = torch.device("cpu")
CONTEXT = Context(0, CPU, bf16=False)
SIDE, CLUSTERS, IMAGES = 8, 3, 120


class Pixels(nn.Module):
    """An encoder that shows the pixels themselves."""

    n_features = SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * self.scale


def config() -> FitConfig:
    request = Request(n_clusters=CLUSTERS, image_size=SIDE)
    return resolve(request, Facts(n_images=IMAGES, native_size=SIDE, channels=1, domain="glyph"))


def images() -> Tensor:
    """Noise, of which each third of the images has one third of the rows a little brighter."""
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(0, 200, (IMAGES, 1, SIDE, SIDE), generator=generator)
    for cluster in range(CLUSTERS):
        found[cluster::CLUSTERS, :, 2 * cluster + 1 : 2 * cluster + 3] += 55
    return found.to(torch.uint8)


def classifier(scale: float) -> Classifier:
    """Tells the thirds apart with some mistakes; the larger the scale, the surer."""
    head = build_head(SIDE * SIDE, CLUSTERS)
    generator = torch.Generator().manual_seed(1)
    rows = torch.zeros(CLUSTERS, SIDE, SIDE)
    for cluster in range(CLUSTERS):
        rows[cluster, 2 * cluster + 1 : 2 * cluster + 3] = 1
    with torch.no_grad():
        head[0].weight.copy_(torch.eye(SIDE * SIDE))
        head[0].bias.zero_()
        head[2].weight.copy_(
            (rows.flatten(1) + torch.randn((CLUSTERS, SIDE * SIDE), generator=generator) * 0.1) * scale
        )
        head[2].bias.copy_(torch.tensor([0.01, -0.01, 0.02]) * scale)
    return Classifier(Pixels(), head)  # type: ignore[arg-type]


def stage_2() -> tuple[Tensor, Tensor]:
    """Opinions, of which every sixth is wrong and every fourth divided, and thirty neighbours in pixels."""
    labels = torch.arange(IMAGES) % CLUSTERS
    labels[::6] = (labels[::6] + 1) % CLUSTERS
    opinions = F.one_hot(labels, CLUSTERS).float()
    opinions[::4] = opinions[::4] * 0.7 + 0.1
    neighbors, _ = nearest_neighbors(F.normalize(images().flatten(1).float(), dim=1), 30)
    return opinions, neighbors.int()


def slow_votes(opinions: Tensor, neighbors: Tensor) -> Tensor:
    """Mean opinion of the nearest twenty."""
    return torch.stack([torch.stack([opinions[near] for near in row[:20]]).mean(dim=0) for row in neighbors.tolist()])


def calibrated(scale: float, **changes: Any) -> Artefact:
    opinions, neighbors = stage_2()
    given = {"opinions": opinions, "neighbors": neighbors, **changes}
    return calibrate.run(images(), classifier(scale), given["opinions"], given["neighbors"], config(), CONTEXT)


def loaded(artefact: Artefact) -> Classifier:
    found = Classifier(Pixels(), build_head(SIDE * SIDE, CLUSTERS))  # type: ignore[arg-type]
    state = {k.removeprefix("classifier."): t for k, t in artefact.tensors.items() if k.startswith("classifier.")}
    found.load_state_dict(state)
    return found


def logits_of(model: Classifier) -> Tensor:
    with torch.no_grad():
        return model.eval()(images().float() / 255)


SCALES = [0.3, 10.0, 25.0]


@pytest.mark.parametrize("scale", SCALES)
def test_labels_and_embeddings_stay(scale: float) -> None:
    before, embeddings = classify(classifier(scale), images(), CPU)
    found = calibrated(scale).tensors
    assert len(before.argmax(dim=1).unique()) == CLUSTERS
    assert torch.equal(found["probabilities"].argmax(dim=1), before.argmax(dim=1))
    assert torch.equal(found["embeddings"], embeddings)
    assert not torch.allclose(found["probabilities"], before, atol=0.01)


@pytest.mark.parametrize("scale", SCALES)
def test_the_probabilities_are_those_of_the_classifier_that_is_loaded(scale: float) -> None:
    artefact = calibrated(scale)
    model = loaded(artefact)
    probabilities, embeddings = classify(model, images(), CPU)
    assert torch.equal(artefact.tensors["probabilities"], probabilities)
    assert torch.equal(artefact.tensors["embeddings"], embeddings)
    torch.testing.assert_close(logits_of(model).softmax(dim=1), probabilities)


@pytest.mark.parametrize("scale", SCALES)
def test_the_temperature_is_in_the_last_layer_and_nowhere_else(scale: float) -> None:
    artefact = calibrated(scale)
    temperature, given, found = artefact.facts["temperature"], classifier(scale), loaded(artefact)
    assert abs(math.log(temperature)) > 0.2
    torch.testing.assert_close(logits_of(found) * temperature, logits_of(given), rtol=1e-4, atol=1e-5 * scale)
    for name, tensor in given.state_dict().items():
        expected = tensor / temperature if name in ("head.2.weight", "head.2.bias") else tensor
        torch.testing.assert_close(found.state_dict()[name], expected)
    names = {f"classifier.{name}" for name in given.state_dict()}
    assert artefact.tensors.keys() == names | {"probabilities", "embeddings"}
    assert artefact.facts.keys() == {"temperature", "confidence_before", "confidence_after"}


def test_what_is_given_stays_as_it_is() -> None:
    pixels, model, (opinions, neighbors) = images(), classifier(60.0), stage_2()
    before = copy.deepcopy(model.state_dict()), pixels.clone(), opinions.clone(), neighbors.clone()
    artefact = calibrate.run(pixels, model, opinions, neighbors, config(), CONTEXT)
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in model.state_dict().items())
    for now, then in zip((pixels, opinions, neighbors), before[1:], strict=True):
        assert torch.equal(now, then)
    with torch.no_grad():
        model.head[2].weight.zero_()  # type: ignore[index]
    assert artefact.tensors["classifier.head.2.weight"].abs().max() > 0  # a copy, not a view
    again = calibrated(60.0)
    assert again.facts == artefact.facts
    assert all(torch.equal(tensor, artefact.tensors[name]) for name, tensor in again.tensors.items())


@pytest.mark.parametrize("scale", SCALES)
def test_confidence_moves_towards_the_agreement_of_the_voters(scale: float) -> None:
    votes = slow_votes(*stage_2())
    before, _ = classify(classifier(scale), images(), CPU)
    agreed = float(votes[torch.arange(IMAGES), before.argmax(dim=1)].mean())
    artefact = calibrated(scale)
    facts, after = artefact.facts, artefact.tensors["probabilities"]
    assert facts["confidence_before"] == pytest.approx(float(before.amax(dim=1).mean()))
    assert facts["confidence_after"] == pytest.approx(float(after.amax(dim=1).mean()))
    assert abs(facts["confidence_after"] - agreed) < abs(facts["confidence_before"] - agreed) / 2
    assert (facts["temperature"] > 1) == (facts["confidence_before"] > agreed)


@pytest.mark.parametrize("scale", SCALES)
def test_no_other_temperature_predicts_the_votes_better(scale: float) -> None:
    votes, logits = slow_votes(*stage_2()), logits_of(classifier(scale))
    artefact = calibrated(scale)
    temperature = artefact.facts["temperature"]

    def loss(log_probabilities: Tensor) -> float:
        return -float((votes * log_probabilities).sum(dim=1).double().mean())

    found = loss(artefact.tensors["probabilities"].log())
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert found < loss((logits / (temperature * factor)).log_softmax(dim=1))


def test_the_voters_are_the_nearest_twenty_with_their_opinions() -> None:
    _, neighbors = stage_2()
    first = calibrated(10.0).facts
    others = neighbors.clone()
    others[:, 20:] = 0  # not asked
    assert calibrated(10.0, neighbors=others).facts == first
    others = neighbors.clone()
    others[:, :20] = 0  # all say what image 0 is
    assert calibrated(10.0, neighbors=others).facts != first
    # Voters that always contradict the classifier leave it no confidence, though it agrees with itself.
    own = classify(classifier(10.0), images(), CPU)[0]
    facts = calibrated(10.0, opinions=own.roll(1, dims=1)).facts
    assert facts["temperature"] == pytest.approx(20)
    assert facts["confidence_after"] < first["confidence_after"]
    # A divided opinion is less than a whole one.
    whole = F.one_hot(own.argmax(dim=1), CLUSTERS).float()
    divided = whole * 0.7 + 0.1
    sure, unsure = (calibrated(10.0, opinions=each).facts["confidence_after"] for each in (whole, divided))
    assert unsure < sure


def test_a_classifier_so_sure_that_probabilities_vanish_is_calibrated_to_finite_ones() -> None:
    before, _ = classify(classifier(600.0), images(), CPU)
    assert (before == 0).any()
    artefact = calibrated(600.0)
    assert 1 < artefact.facts["temperature"] <= 20.0001
    assert all(torch.isfinite(tensor).all() for tensor in artefact.tensors.values())
    assert artefact.facts["confidence_after"] < artefact.facts["confidence_before"]
    # Voters that always agree, being the image itself, leave nothing to flatten.
    alone = torch.arange(IMAGES).unsqueeze(1)
    agreeing = F.one_hot(before.argmax(dim=1), CLUSTERS).float()
    assert calibrated(600.0, opinions=agreeing, neighbors=alone).facts["temperature"] < 1.5


def test_fewer_than_twenty_neighbours_will_do() -> None:
    facts = calibrated(10.0, neighbors=stage_2()[1][:, :1]).facts
    assert 0.05 <= facts["temperature"] <= 20
