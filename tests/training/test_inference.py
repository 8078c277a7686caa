import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spiceclust.errors import ConfigError, SpiceError, TrainingError
from spiceclust.models.encoders import Design, Encoder, build_encoder
from spiceclust.models.heads import Classifier, ClusterHeads
from spiceclust.training.context import Context
from spiceclust.training.inference import BATCH, apply_batched, batch_of, classify, embed_images

CPU = torch.device("cpu")


def numbered(n: int) -> Tensor:
    """Images of one pixel that say which they are."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)


@given(st.integers(1, 40), st.integers(1, 16))
def test_every_image_passes_once_and_comes_out_in_its_place(n: int, batch: int) -> None:
    seen: list[list[int]] = []
    numbers: list[int] = []

    def function(part: Tensor, number: int) -> Tensor:
        seen.append(part.flatten().tolist())
        numbers.append(number)
        return part.flatten(1).float() * 2

    found = apply_batched(function, numbered(n), CPU, batch)
    assert found.flatten().tolist() == [2 * image for image in range(n)]
    assert found.shape == (n, 1)
    padded = list(range(n)) + [n - 1] * (-n % batch)  # the last image again, until the batch is full
    assert seen == [padded[start : start + batch] for start in range(0, n, batch)]
    assert numbers == list(range(len(seen)))


def test_a_function_may_return_the_same_memory_each_time() -> None:
    memory = torch.empty(4, 1)

    def function(part: Tensor, number: int) -> Tensor:
        return memory.copy_(part.flatten(1))

    assert apply_batched(function, numbered(10), CPU, 4).flatten().tolist() == list(range(10))


def test_nothing_is_kept_for_gradients() -> None:
    weight = torch.ones(1, requires_grad=True)
    assert not apply_batched(lambda part, number: part.flatten(1) * weight, numbered(3), CPU).requires_grad


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    encoder = build_encoder("resnet_small", 1, 8, [0.5], [0.25], seed=0)
    return Classifier(encoder, ClusterHeads(1, encoder.n_features, 3, seed=0).extract(0))


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def test_classify_gives_shares_and_unit_embeddings_of_the_plain_images(classifier: Classifier) -> None:
    batch = images(5)
    classifier.train()
    probabilities, embeddings = classify(classifier, batch, CPU)
    assert not classifier.training
    assert (probabilities.shape, embeddings.shape) == ((5, 3), (5, 128))
    assert probabilities.dtype == embeddings.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))
    with torch.no_grad():
        pixels = batch.float() / 255
        torch.testing.assert_close(embeddings, F.normalize(classifier.encoder(pixels), dim=1))
        torch.testing.assert_close(probabilities, classifier(pixels).softmax(dim=1))


def test_an_image_gets_the_same_bits_whatever_comes_with_it(classifier: Classifier) -> None:
    many = images(BATCH + 70)
    whole = classify(classifier, many, CPU)
    for chosen in ([0], [BATCH - 1, 3], [BATCH + 69], list(range(BATCH + 20, 40, -1)), [5] * 3 + list(range(100))):
        part = classify(classifier, many[chosen], CPU)
        for some, everything in zip(part, whole, strict=True):
            assert torch.equal(some, everything[chosen])
    others = images(BATCH + 70, seed=1)
    others[17] = many[17]
    for some, everything in zip(classify(classifier, others, CPU), whole, strict=True):
        assert torch.equal(some[17], everything[17])


def test_of_large_images_fewer_go_at_once() -> None:
    def batch(side: int) -> int:
        return batch_of(torch.empty((1, 3, side, side), dtype=torch.uint8))

    assert [batch(side) for side in (8, 64, 128)] == [BATCH] * 3
    assert [batch(side) for side in (129, 224, 384, 1024, 5000)] == [128, 64, 16, 4, 1]
    assert batch_of(torch.empty((1, 2048))) == BATCH  # embeddings


def test_the_batch_follows_from_the_size_of_the_images() -> None:
    large = torch.zeros((5, 1, 1024, 1024), dtype=torch.uint8)
    seen: list[int] = []

    def function(part: Tensor, number: int) -> Tensor:
        seen.append(len(part))
        return part[:, 0, :1, 0].float()

    assert apply_batched(function, large, CPU).shape == (5, 1)
    assert seen == [4, 4]


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_rows_of_any_shape_pass(shape: tuple[int, ...]) -> None:
    rows = torch.rand((10, *shape))
    assert torch.equal(apply_batched(lambda part, number: part, rows, CPU, 4), rows)


@pytest.mark.parametrize("n", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_any_number_of_images_can_be_classified(classifier: Classifier, n: int) -> None:
    probabilities, embeddings = classify(classifier, images(n), CPU)
    assert len(probabilities) == len(embeddings) == n


class Strange(torch.nn.Module):
    """Pixels in a row; an image whose first pixel is the brightest there is gets a value that is not finite."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1).clone()
        rows[rows[:, 0] == 1, -1] = torch.nan
        return rows


@pytest.mark.parametrize(("kind", "error"), [("module", ConfigError), ("moco", TrainingError)])
def test_an_encoder_that_puts_out_what_is_not_finite_is_an_error_with_both_numbers(
    kind: str, error: type[SpiceError]
) -> None:
    encoder = Encoder(Strange(), Design(kind, "Strange", 1, 8, 64), None, None)
    some = images(BATCH + 9)
    some[:, :, 0, 0] = 7
    some[[4, BATCH + 3], :, 0, 0] = 255
    message = f"the encoder Strange puts out values that are not finite for 2 of {BATCH + 9} images"
    with pytest.raises(error, match=message):
        classify(Classifier(encoder, ClusterHeads(1, 64, 3, seed=0).extract(0)), some, CPU)
    with pytest.raises(error, match=message):
        embed_images(encoder, some, lambda batch, _: batch / 255, Context(0, CPU, bf16=False))
