import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spiceclust.functional.prototypes import double_softmax_loss
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, ClusterHeads, build_head, build_projection


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_batched_heads_are_separate_mlps(heads: int, batch: int, features: int, clusters: int, seed: int) -> None:
    together = ClusterHeads(heads, features, clusters, seed)
    alone = [together.extract(head) for head in range(heads)]
    shared, own = random(batch, features, seed=seed), random(heads, batch, features, seed=seed)
    assert together(shared).shape == (heads, batch, clusters)
    for head, mlp in enumerate(alone):
        torch.testing.assert_close(together(shared)[head], mlp(shared))
        torch.testing.assert_close(together(own)[head], mlp(own[head]))


def test_a_head_by_hand() -> None:
    heads = ClusterHeads(1, 2, 2, seed=0)
    with torch.no_grad():
        heads.weight1[0] = torch.tensor([[1.0, -1.0], [2.0, 0.0]])  # rows are inputs, columns outputs
        heads.bias1[0] = torch.tensor([[0.5, 0.0]])
        heads.weight2[0] = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
        heads.bias2[0] = torch.tensor([[0.0, -1.0]])
    # hidden: relu(1 x 1 + 2 x 2 + 0.5, -1 x 1 + 0) = (5.5, 0); logits: (5.5, 3 x 5.5 - 1)
    assert heads(torch.tensor([[1.0, 2.0]])).tolist() == [[[5.5, 15.5]]]
    assert heads.extract(0)(torch.tensor([[1.0, 2.0]])).tolist() == [[5.5, 15.5]]


def test_an_extracted_head_is_a_copy() -> None:
    heads = ClusterHeads(2, 4, 3, seed=0)
    mlp, x = heads.extract(1), random(5, 4)
    before = mlp(x)
    with torch.no_grad():
        heads.weight1.zero_()
        heads.bias2.zero_()
    assert torch.equal(mlp(x), before)


def test_an_extracted_head_fits_the_shape_to_load_into() -> None:
    mlp, shell, x = ClusterHeads(2, 4, 3, seed=0).extract(1), build_head(4, 3), random(5, 4)
    shell.load_state_dict(mlp.state_dict())
    assert torch.equal(shell(x), mlp(x))


def test_heads_start_apart_within_the_bounds_of_a_linear_layer() -> None:
    heads = ClusterHeads(3, 64, 10, seed=5)
    bound = 1 / math.sqrt(64)
    for weight in heads.parameters():
        assert float(weight.detach().abs().max()) <= bound
        assert not torch.equal(weight[0], weight[1])
    assert float(heads.weight1.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of a uniform draw


def test_equal_seeds_give_equal_heads_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def drawn(seed: int) -> list[Tensor]:
        projection = build_projection(4, 3, seed=seed)
        return [
            *ClusterHeads(2, 4, 3, seed=seed).parameters(),
            *projection[0].parameters(),
            *projection[3].parameters(),
        ]

    first = drawn(7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    for one, same, different in zip(first, drawn(7), drawn(8), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, different)


def test_building_a_projection_leaves_the_generators_of_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    build_projection(4, 3, seed=7)
    assert seeded == []


def test_a_heads_gradient_is_the_one_it_would_get_alone() -> None:
    heads, x, labels = ClusterHeads(3, 4, 5, seed=0), random(6, 4), torch.arange(18).view(3, 6) % 5
    double_softmax_loss(heads(x), labels).backward()
    for head in range(3):
        mlp = heads.extract(head)
        double_softmax_loss(mlp(x)[None], labels[head : head + 1]).backward()
        for own, alone in (
            (heads.weight1.grad[head].T, mlp[0].weight.grad),
            (heads.bias1.grad[head, 0], mlp[0].bias.grad),
            (heads.weight2.grad[head].T, mlp[2].weight.grad),
            (heads.bias2.grad[head, 0], mlp[2].bias.grad),
        ):
            torch.testing.assert_close(own, alone)
            assert float(alone.abs().max()) > 0


def test_the_projection_is_two_layers_with_a_norm_between() -> None:
    projection = build_projection(8, 3, seed=0)
    first, _, _, second = projection
    assert (first.in_features, first.out_features, second.out_features) == (8, 32, 3)
    hidden = first(random(5, 8))
    normed = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(projection(random(5, 8)), second(normed.clamp(min=0)))


@pytest.fixture
def classifier() -> Classifier:
    encoder = build_encoder("resnet_small", 1, 16, [0.5], [0.25], seed=0)
    return Classifier(encoder, ClusterHeads(1, encoder.n_features, 3, seed=0).extract(0)).eval()


def test_a_classifier_embeds_on_the_unit_sphere_and_classifies_from_there(classifier: Classifier) -> None:
    images = torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, embeddings, logits = classifier.encoder(images), classifier.embed(images), classifier(images)
    assert (embeddings.shape, embeddings.dtype, logits.shape) == ((4, 128), torch.float32, (4, 3))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(embeddings, features / features.square().sum(dim=1, keepdim=True).sqrt())
    torch.testing.assert_close(logits, classifier.head(embeddings))


def test_embeddings_are_normalised_in_float32_under_autocast(classifier: Classifier) -> None:
    images = torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embeddings = classifier.embed(images)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
