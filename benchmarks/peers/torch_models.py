"""The models in PyTorch, as pure functions of a list of parameters, for one submodel or for a stack of `K`.

Dense layers keep the features in front of the batch, `[F, B]` and `[K, F, B]`: the softmax over few classes then runs
along the batch, where it vectorises, and no layer needs a transposed copy. A stack of convolutions is one grouped
convolution on `[B, K C, H, W]`. Maximum and ReLU commute, so pooling comes first and ReLU sees a quarter of the values.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers.common import Task, lecun_normal

Params = list[Any]
Shape = tuple[int, ...]

_CNN = (16, 32)
_RESNET9 = (64, 128, 256, 512)
_GROUPS = 16
_RESNET9_SCALE = 0.125


class Layers(Protocol):
    """The layers of one model or of a stack; the models are written once in terms of them."""

    def conv(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve 3x3 with zero padding."""

    def norm(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Normalise groups of channels."""

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten feature maps for a dense layer: features first, the batch last."""

    def dense(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Multiply columns and add the bias."""


class Single:
    """The layers of one model."""

    def conv(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve `[B, I, H, W]` with `[O, I, 3, 3]`."""
        return functional.conv2d(x, kernel, bias, padding=1)

    def norm(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Normalise `[B, C, H, W]` in groups."""
        return functional.group_norm(x, _GROUPS, scale, shift)

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten `[B, C, H, W]` to `[F, B]`."""
        return x.flatten(1).t()

    def dense(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Map `[I, B]` to `[O, B]` with a kernel `[O, I]`."""
        return torch.addmm(bias[:, None], kernel, x)


class Stack:
    """The layers of `size` models at once; every parameter has a leading axis `K`."""

    def __init__(self, size: int):
        self.size = size

    def conv(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve `[B, K I, H, W]` with `[K, O, I, 3, 3]`."""
        flat_bias = None if bias is None else bias.flatten()
        return functional.conv2d(x, kernel.flatten(0, 1), flat_bias, padding=1, groups=self.size)

    def norm(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Normalise `[B, K C, H, W]` in groups."""
        return functional.group_norm(x, _GROUPS * self.size, scale.flatten(), shift.flatten())

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten `[B, K C, H, W]` to `[K, F, B]`."""
        return x.reshape(len(x), self.size, -1).permute(1, 2, 0)

    def dense(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Map `[K, I, B]` to `[K, O, B]` with kernels `[K, O, I]`."""
        return torch.baddbmm(bias[..., None], kernel, x)


def mlp(layers: Layers, params: Params, x: torch.Tensor) -> torch.Tensor:
    """Map columns `[F, B]` or `[K, F, B]` to logits `[C, B]` or `[K, C, B]`: dense layers with a ReLU between them."""
    for kernel, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = functional.relu(layers.dense(x, kernel, bias))
    return layers.dense(x, params[-2], params[-1])


def cnn(layers: Layers, params: Params, x: torch.Tensor) -> torch.Tensor:
    """Map images `[B, I, H, W]` or `[B, K I, H, W]` to logits: twice convolution, 2x2 maximum, ReLU, then dense."""
    for kernel, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = functional.relu(functional.max_pool2d(layers.conv(x, kernel, bias), 2))
    return layers.dense(layers.columns(x), params[-2], params[-1])


def resnet9(layers: Layers, params: Params, x: torch.Tensor) -> torch.Tensor:
    """Map images to logits with the ResNet of DAWNBench entries, its batch normalisation replaced by groups."""
    rest = iter(params)

    def block(x: torch.Tensor, pool: bool = False) -> torch.Tensor:
        x = layers.norm(layers.conv(x, next(rest)), next(rest), next(rest))
        return functional.relu(functional.max_pool2d(x, 2) if pool else x)

    x = block(block(x), pool=True)
    x = x + block(block(x))
    x = block(block(x, pool=True), pool=True)
    x = x + block(block(x))
    x = layers.columns(x.amax((2, 3), keepdim=True))
    return _RESNET9_SCALE * layers.dense(x, next(rest), next(rest))


APPLY: dict[str, Callable[[Layers, Params, torch.Tensor], torch.Tensor]] = {"mlp": mlp, "cnn": cnn, "resnet9": resnet9}


def initial(task: Task, seed: int) -> list[np.ndarray]:
    """Draw the float32 parameters of one submodel: Flax's defaults, from the seed alone."""
    rng = np.random.default_rng([1, seed])
    return [
        np.full(shape, fill, np.float32) if fill is not None else lecun_normal(rng, shape, int(np.prod(shape[1:])))
        for shape, fill in _shapes(task)
    ]


def _shapes(task: Task) -> list[tuple[Shape, float | None]]:
    """List the shape of every parameter and its initial value, `None` for a kernel that is drawn."""
    if task.model == "mlp":
        sizes = (int(np.prod(task.x.shape[1:])), *task.hidden)
        return [*itertools.chain(*map(_dense, sizes, sizes[1:])), *_dense(sizes[-1], task.num_classes)]
    height, width, channels = (*task.x.shape[1:], 1)[:3]
    if task.model == "cnn":
        features = _CNN[1] * (height // 4) * (width // 4)
        convs = [_conv(channels, _CNN[0], 0.0), _conv(*_CNN, 0.0)]
        return [*itertools.chain(*convs), *_dense(features, task.num_classes)]
    a, b, c, d = _RESNET9
    pairs = [(channels, a), (a, b), (b, b), (b, b), (b, c), (c, d), (d, d), (d, d)]
    return [*itertools.chain(*(_conv(*pair, 1.0, 0.0) for pair in pairs)), *_dense(d, task.num_classes)]


def _conv(inputs: int, outputs: int, *others: float) -> list[tuple[Shape, float | None]]:
    """Return the kernel of a convolution and further parameters, one per channel, with these values."""
    return [((outputs, inputs, 3, 3), None), *(((outputs,), value) for value in others)]


def _dense(inputs: int, outputs: int) -> list[tuple[Shape, float | None]]:
    """Return the kernel and the bias of a dense layer."""
    return [((outputs, inputs), None), ((outputs,), 0.0)]
