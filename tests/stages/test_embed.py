import pytest
import torch
from torch import Tensor, nn

from spiceclust.config import Facts, FitConfig, make_request, resolve
from spiceclust.errors import ConfigError
from spiceclust.models.encoders import Design, Encoder
from spiceclust.stages import embed
from spiceclust.training.context import Context

CONTEXT = Context(0, torch.device("cpu"), bf16=False)


class Rows(nn.Module):
    """Pixels in a row, times a factor and plus a constant."""

    def __init__(self, factor: float, constant: float) -> None:
        super().__init__()
        self.factor, self.constant = factor, constant

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * self.factor + self.constant


def embedded(factor: float, constant: float, encoder: str = "module:Rows") -> Tensor:
    """(12, 64) embeddings of ten noisy images and two black ones."""
    images = torch.randint(1, 256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[[3, 7]] = 0
    facts = Facts(n_images=12, native_size=8, channels=1, domain="natural", encoder_size=8)
    config: FitConfig = resolve(make_request(n_clusters=2, encoder=encoder), facts)
    design = Design("module", "Rows", 1, 8, 64)
    return embed.run(images, Encoder(Rows(factor, constant), design, None, None), config, CONTEXT).tensors["plain"]


@pytest.mark.parametrize(
    ("factor", "constant", "message"),
    [
        (1.0, 0.0, "'module:Rows' puts out only zeros, or values too large or small for float32, for 2 of 12 images"),
        (1e-35, 0.0, "too large or small for float32, for 12 of 12 images"),
        (1e38, 1e38, "too large or small for float32, for 12 of 12 images"),
        (0.0, 1.0, "'module:Rows' puts out the same for all 12 of 12 images"),
    ],
)
def test_an_encoder_that_was_given_and_tells_nothing_is_an_error_with_both_numbers(
    factor: float, constant: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        embedded(factor, constant)


@pytest.mark.parametrize(("factor", "constant"), [(1.0, 0.0), (0.0, 1.0)])
def test_of_one_that_was_learned_it_is_none(factor: float, constant: float) -> None:
    assert embedded(factor, constant, "moco").isfinite().all()


def test_what_tells_something_is_taken() -> None:
    found = embedded(1.0, 1.0)
    assert torch.allclose(found.norm(dim=1), torch.ones(12))
