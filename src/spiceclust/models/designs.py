"""From what an encoder is (a `Design`) to the encoder, without its weights; and the models of timm.

B images in a batch, S pixels a side, D features.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
from collections.abc import Callable, Generator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from spiceclust.config import choose
from spiceclust.errors import ConfigError
from spiceclust.models.encoders import Design, Encoder, build_encoder
from spiceclust.models.resnet import MEAN, STD, ResNet
from spiceclust.models.weights import misfit

SEED = 0x59A3F217  # of weights that are drawn only to be replaced: none that is likely to have made a file


def build(design: Design, own: nn.Module | None = None) -> Encoder:
    """An encoder of this design, whose weights mean nothing yet.

    Args:
        design: what it is.
        own: the module of a design of the kind `module`; it stays as it is.

    Raises:
        ConfigError: an unknown kind or name, a module that is needed and not given, or a missing extra.
    """
    if design.kind == "module":
        if own is None:
            raise ConfigError(
                f"the encoder is the module {design.name} of your own, which is in no file: give it in Python, "
                "with Spice(encoder=...) or Spice.load(folder, encoder=...)"
            )
        return Encoder(_AsOne(copy.deepcopy(own)), design, None, None)
    return choose(KINDS, design.kind, "kind of encoder")(design)


class _AsOne(nn.Module):
    """One's own module, given images that lie in memory as an array does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.module(images.contiguous())
        return features


def _moco(design: Design) -> Encoder:
    nothing = [0.0] * design.channels, [1.0] * design.channels  # the statistics of the pixels come with the weights
    return build_encoder(design.name, design.channels, design.image_size, *nothing, seed=0)


def _resnet(design: Design) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        return Encoder(ResNet(design.name).to(memory_format=torch.channels_last), design, MEAN, STD)  # type: ignore[call-overload]


def _timm(design: Design) -> Encoder:
    model, about = timm_model(design.name, design.image_size)
    return Encoder(model, design, about["mean"], about["std"])


def _embeddings(design: Design) -> Encoder:
    return Encoder(nn.Identity(), design, None, None)


KINDS: dict[str, Callable[[Design], Encoder]] = {
    "moco": _moco,
    "resnet": _resnet,
    "timm": _timm,
    "embeddings": _embeddings,
}


def n_features_of(module: nn.Module, channels: int, image_size: int) -> int:
    """D, by sending a black image through the module, which is put into evaluation mode.

    Raises:
        Exception: anything that the module may raise.
        ValueError: what comes out is not floats (1, D) or (1, D, s, s).
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        out = module.eval()(torch.zeros((1, channels, image_size, image_size), device=device))
    if not isinstance(out, Tensor):
        raise ValueError(f"it returns a {type(out).__name__}, not a tensor (B, D)")
    if out.dim() not in (2, 4) or len(out) != 1 or not out.is_floating_point():
        raise ValueError(f"it returns {out.dtype} of shape {tuple(out.shape)}, not floats (B, D)")
    return int(out.shape[1])


# timm


def timm_model(
    name: str, image_size: int | None, weights: Mapping[str, Tensor] | None = None, *, pretrained: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """A model of timm without its classifier, and how its images must be prepared.

    Args:
        name: as timm lists it, with or without a tag such as `.a1_in1k`.
        image_size: S in pixels; None is the model's own.
        weights: what to load; keys are brought into place as timm does with a checkpoint of its own.
        pretrained: whether to load weights at all: those given, or those that timm knows, which it may have to fetch.

    Returns:
        The model, in evaluation mode, and `input_size` (channels, S, S), `mean`, `std` and other facts.

    Raises:
        ConfigError: timm is not installed or has no such model, the model does not take images of that size, or its
            weights cannot be had or do not fit.
    """
    timm = _timm_itself()
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(similar)}?" if similar else "timm.list_models() lists what there is"
        raise ConfigError(f"timm {timm.__version__} has no model {name!r}: {hint}")
    known = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {}
    if image_size is not None and known is not None and known.fixed_input_size and known.input_size[1] != image_size:
        sized["img_size"] = image_size
    if weights is not None:
        sized["pretrained_cfg_overlay"] = {"state_dict": dict(weights), "custom_load": False}
    try:
        with torch.random.fork_rng(devices=[]), _quiet("timm"):
            torch.default_generator.manual_seed(SEED)
            model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **sized)
    except Exception as error:  # what timm, the hub and the network may raise is not one family
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if not pretrained:
            raise ConfigError(f"timm:{name} cannot be built ({reason})") from None
        out = "give others" if weights else f"go online once, or give a file that you have: timm:{name}@FILE"
        raise ConfigError(f"the weights of timm:{name} cannot be loaded ({reason}): {out}") from None
    about: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return model.eval(), about


def timm_weights(design: Design, given: Mapping[str, Tensor] | None, source: str) -> dict[str, Tensor]:
    """The state dict of timm's encoder with weights: those given, or those that timm knows.

    Raises:
        ConfigError: as `timm_model`, or the weights given leave some of the model's as they were drawn.
    """
    loaded, about = timm_model(design.name, design.image_size, given, pretrained=True)
    drawn = dict(timm_model(design.name, design.image_size)[0].named_parameters())  # from the same seed
    as_drawn = any(
        values.requires_grad and values.dim() > 1 and values.std() > 0 and torch.equal(values, drawn[name])
        for name, values in loaded.named_parameters()
    )
    if given is not None and as_drawn:  # timm itself would go on with some weights as they were drawn, without a word
        wrong = misfit(loaded.state_dict(), given)
        raise ConfigError(f"weights {source} do not fit timm:{design.name} ({wrong}): give those of this model")
    return dict(Encoder(loaded, design, about["mean"], about["std"]).state_dict())


def _timm_itself() -> ModuleType:
    try:
        import timm
        import timm.data
    except ImportError:
        raise ConfigError("encoders of timm need the package timm: pip install 'spiceclust[timm]'") from None
    except RuntimeError as error:  # a torchvision that was built for another torch
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"timm cannot be imported ({reason}): install the torchvision that fits your torch") from None
    return timm


@contextlib.contextmanager
def _quiet(name: str) -> Generator[None]:
    """Silences the warnings of a logger: timm's would list every key of a file that does not fit."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
