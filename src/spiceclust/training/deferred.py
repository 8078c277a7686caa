"""The gradients of convolutions' weights, computed on another lane: nothing in a backward pass waits for them.

A backward pass goes from layer to layer by the gradients of what a layer was given; those of its weights are half of
the work of a convolution, and are needed at the end alone. B images in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spiceclust.training.lanes import Lane


@contextmanager
def weights_later(model: nn.Module, lane: Lane) -> Iterator[None]:
    """Has the convolutions of a model, as long as the block runs, leave their weights' gradients to `lane.settle`.

    The numbers are those of an ordinary backward pass, but that in bf16 the gradients of a layer that is called twice
    are added in float32. Where there is one lane nothing changes.

    Args:
        model: whose plain `nn.Conv2d` are taken; other layers, and convolutions of other classes, stay as they are.
        lane: the second lane.
    """
    taken = [each for each in model.modules() if type(each) is nn.Conv2d and _is_plain(each)] if lane.second else []
    for layer in taken:
        layer.forward = partial(_forward, layer, lane)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in taken:
            del layer.forward


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether it has no bias, and nothing but zeros, of which it says how many, around its input."""
    return layer.bias is None and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _forward(layer: nn.Conv2d, lane: Lane, images: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and layer.weight.requires_grad):
        return nn.Conv2d.forward(layer, images)
    kind = images.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
    with torch.autocast(kind, enabled=False):
        output: Tensor = _Convolution.apply(images.to(dtype), layer.weight, layer, lane)  # type: ignore[no-untyped-call]
    return output


class _Convolution(torch.autograd.Function):
    """(B, channels, S, S) to (B, channels', S', S'), in the format of the images; a weight is cast to it."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, parameter: Tensor, layer: nn.Conv2d, lane: Lane) -> Tensor:
        weight = parameter.to(images.dtype)
        ctx.save_for_backward(images, weight)
        ctx.layer, ctx.lane = layer, lane
        output: Tensor = torch.ops.aten.convolution(images, weight, None, *_settings(layer))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        images, weight = ctx.saved_tensors

        @torch.no_grad()
        def made(wanted: int) -> Tensor:
            mask = [place == wanted for place in range(3)]  # of the images, the weight, the bias
            found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, *_settings(ctx.layer), mask
            )
            return found[wanted]

        ctx.lane.defer(partial(made, 1), partial(_add, ctx.layer.weight))
        return made(0) if ctx.needs_input_grad[0] else None, None, None, None


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    made = gradient.to(parameter.dtype)
    parameter.grad = made if parameter.grad is None else parameter.grad + made


def _settings(layer: nn.Conv2d) -> tuple[Any, ...]:
    """Stride, padding, dilation, that it is not transposed, no more at the far edges, groups."""
    return layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups
