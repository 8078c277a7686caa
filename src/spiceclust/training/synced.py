"""Batch norm over the shares of several processes: each normalises by the statistics of the whole batch.

torch.nn.SyncBatchNorm does so on GPUs alone; on a CPU the layers do it here. B images in the whole batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spiceclust.errors import ConfigError

Add = Callable[[Tensor], object]  # sums a tensor over all processes, in place


def synchronize(model: nn.Module, add: Add) -> nn.Module:
    """Has the batch norm of a model, in training mode, count the shares of all processes.

    Args:
        model: its parameters and buffers stay the same objects under the same names.
        add: sums over processes; every process calls it in the same order.

    Returns:
        The model, or what has taken its place on a GPU.

    Raises:
        ConfigError: as `layers_to_share`.
    """
    layers = layers_to_share(model)
    if any(layer.weight.is_cuda for layer in layers):
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return shared
    for layer in layers:
        layer.forward = partial(_forward, layer, add)  # type: ignore[method-assign]
    return model


def layers_to_share(model: nn.Module) -> list[_BatchNorm]:
    """The batch norm of a model.

    Raises:
        ConfigError: it has layers that compute a batch norm in a way of their own.
    """
    layers = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    for layer in layers:
        if type(layer) not in (nn.BatchNorm1d, nn.BatchNorm2d) or not (layer.affine and layer.track_running_stats):
            raise ConfigError(
                f"{type(layer).__name__} cannot share its statistics among processes: train in one process, or leave "
                "the encoder as it is (train_encoder: false)"
            )
    return layers


def _forward(layer: _BatchNorm, add: Add, images: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, images)
    seen, of_mean, of_var = layer.num_batches_tracked, layer.running_mean, layer.running_var
    assert seen is not None  # `synchronize` saw to that
    assert of_mean is not None
    assert of_var is not None
    with torch.no_grad():
        count, mean, var = _statistics(images, add)
        seen.add_(1)
        share = layer.momentum if layer.momentum is not None else 1 / float(seen)
        of_mean.lerp_(mean.to(of_mean.dtype), share)
        of_var.lerp_((var * count / (count - 1)).to(of_var.dtype), share)
    given = images, layer.weight, layer.bias, mean.float(), var.float(), count, layer.eps, add
    normalized: Tensor = _Normalize.apply(*given)  # type: ignore[no-untyped-call]
    return normalized


def _statistics(images: Tensor, add: Add) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values in a channel, their mean and variance, (C,) float64, over the shares of all processes."""
    dims = [dim for dim in range(images.dim()) if dim != 1]
    var, mean = torch.var_mean(images.float(), dim=dims, correction=0)
    own = images.new_full((1,), images.numel() // images.shape[1], dtype=torch.float64)
    sums = torch.cat([own, own * mean.double(), own * (var.double() + mean.double().square())])  # float64: they cancel
    add(sums)
    count, (of_values, of_squares) = sums[:1], sums[1:].view(2, -1)
    mean = of_values / count
    return count, mean, (of_squares / count - mean.square()).clamp(min=0)


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var are those of all processes' x."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        add: Add,
    ) -> Tensor:
        ctx.save_for_backward(images, weight, mean, var, count)
        ctx.eps, ctx.add = eps, add
        output: Tensor = torch.ops.aten.native_batch_norm(images, weight, bias, mean, var, False, 0.0, eps)[0]
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, var, count = ctx.saved_tensors
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, images, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # what an image changes through mean and var (Ioffe and Szegedy 2015, section 3) needs the sums of all processes
        sums = torch.stack([of_weight, of_bias]).double()
        ctx.add(sums)
        by_weight, by_bias = sums
        scale = (var.double() + ctx.eps).rsqrt()
        slope = weight * scale / count * by_weight * scale
        shift = weight * scale / count * by_bias - slope * mean
        shape = [1, -1] + [1] * (images.dim() - 2)
        through = torch.addcmul(shift.float().view(shape), images.float(), slope.float().view(shape))
        return (direct - through).to(gradient.dtype), of_weight, of_bias, None, None, None, None, None
