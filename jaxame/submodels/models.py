"""Ready models in Flax NNX, each as the factory that `TrainingGame` takes."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxame import checks

Initializer = Callable[..., jax.Array]

_LECUN_NORMAL = nnx.initializers.lecun_normal(in_axis=-1, out_axis=-2)
_RESNET_GROUPS = 16


class Dense(nnx.Module):
    """A dense layer with examples last: kernel `[out, in]`, activations `[width, B]`.

    In this order no matrix product of the forward or backward pass has its left factor transposed, and the products of
    all submodels with a batch that they share are one large one.
    """

    def __init__(self, num_in: int, num_out: int, *, init: Initializer = _LECUN_NORMAL, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (num_out, num_in)))
        self.bias = nnx.Param(jnp.zeros(num_out))

    def __call__(self, x: jax.Array, *, axis: int = 0) -> jax.Array:
        """Map `x`, whose features lie along `axis` (0 or 1) and examples along the other, to `[num_out, B]`."""
        return jax.lax.dot_general(self.kernel[...], x, (((1,), (axis,)), ((), ()))) + self.bias[...][:, None]


class MLP(nnx.Module):
    """A multilayer perceptron: dense layers with a ReLU between them, on flattened inputs."""

    def __init__(self, sizes: Sequence[int], *, init: Initializer = _LECUN_NORMAL, rngs: nnx.Rngs):
        self.layers = nnx.List([Dense(*pair, init=init, rngs=rngs) for pair in itertools.pairwise(sizes)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map inputs `[B, ...]`, flattened to `[B, sizes[0]]`, to outputs `[B, sizes[-1]]`."""
        first, *others = self.layers
        x = first(x.reshape(x.shape[0], -1), axis=1)
        for layer in others:
            x = layer(nnx.relu(x))
        return x.T


class CNN(nnx.Module):
    """3x3 convolutions, each followed by a ReLU and a 2x2 max pool, and a dense layer."""

    def __init__(self, shape: Sequence[int], channels: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        widths = [shape[2] if len(shape) == 3 else 1, *channels]
        side = 2 ** len(channels)
        self.layers = nnx.List(
            [nnx.Conv(*pair, (3, 3), use_bias=False, rngs=rngs) for pair in itertools.pairwise(widths)]
        )
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in widths[1:]])
        self.head = nnx.Linear((shape[0] // side) * (shape[1] // side) * widths[-1], num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images `[B, H, W]` or `[B, H, W, C]` to outputs `[B, num_classes]`."""
        x = x if x.ndim == 4 else x[..., None]
        for layer, bias in zip(self.layers, self.biases, strict=True):
            x = nnx.relu(max_pool(layer(x)) + bias[...])  # pooling first gives the same, with a quarter of the numbers
        return self.head(x.reshape(x.shape[0], -1))


class ConvBlock(nnx.Module):
    """A 3x3 convolution, group normalisation, a ReLU, and a 2x2 max pool where asked for."""

    def __init__(self, num_in: int, num_out: int, *, pool: bool = False, rngs: nnx.Rngs):
        self.conv = nnx.Conv(num_in, num_out, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.GroupNorm(num_out, num_groups=_RESNET_GROUPS, rngs=rngs)
        self.pool = pool

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, num_in]` to `[B, H', W', num_out]`."""
        x = nnx.relu(self.norm(self.conv(x)))
        return max_pool(x) if self.pool else x


class ResNet9(nnx.Module):
    """The nine-layer residual network of the DAWNBench entries, with group normalisation.

    Batch normalisation would make every example of a batch, excluded ones too, take part in the outputs on all others,
    and its running averages are state beside the parameters. Group normalisation uses one example at a time.

    References:
      Page, "How to train your ResNet", 2018; Wu and He, "Group normalization", ECCV 2018.
    """

    def __init__(self, num_channels: int, width: int, num_classes: int, *, rngs: nnx.Rngs):
        block = functools.partial(ConvBlock, rngs=rngs)
        wide = [width, 2 * width, 4 * width, 8 * width]
        self.stem = block(num_channels, wide[0])
        self.downs = nnx.List([block(*pair, pool=True) for pair in itertools.pairwise(wide)])
        self.residuals = nnx.List([nnx.List([block(size, size) for _ in range(2)]) for size in (wide[1], wide[3])])
        self.head = nnx.Linear(wide[3], num_classes, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images `[B, H, W, C]` to outputs `[B, num_classes]`."""
        x = self.stem(x)
        for down, residual in zip(self.downs, (self.residuals[0], (), self.residuals[1]), strict=True):
            x = down(x)
            branch = x
            for layer in residual:
                branch = layer(branch)
            x = x + branch if len(residual) else x
        return 0.125 * self.head(jnp.max(x, axis=(1, 2)))


class BagOfEmbeddings(nnx.Module):
    """The mean of the embeddings of a text's tokens, and a dense layer; token 0 is padding and does not count.

    References:
      Joulin et al., "Bag of tricks for efficient text classification", EACL 2017.
    """

    def __init__(self, num_tokens: int, width: int, num_classes: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(num_tokens, width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map tokens int `[B, L]` to outputs `[B, num_classes]`; a text without tokens has the embedding 0."""
        counts = (x > 0).astype(self.embed.embedding.dtype)
        total = jnp.einsum("bl,bld->bd", counts, self.embed(x))
        return self.head(total / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1))


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Take the largest of every 2x2 pixels of `[B, H, W, C]`; an odd last row or column is dropped.

    The slope of a maximum is shared equally among pixels that tie, as by `jnp.max`. Written out, it takes a fraction of
    the time of that of a reduction over windows, which is a scatter.
    """
    return jnp.max(_windows(x), axis=(2, 4))


def _windows(x: jax.Array) -> jax.Array:
    """Return the 2x2 windows of `[B, H, W, C]` as `[B, H', 2, W', 2, C]`."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * height, : 2 * width].reshape(x.shape[0], height, 2, width, 2, x.shape[3])


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = max_pool(x)
    return largest, (x, largest)


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array]:
    x, largest = saved
    windows = _windows(x)
    corners = [windows[:, :, i, :, j] == largest for i in (0, 1) for j in (0, 1)]
    share = slope / sum(corner.astype(slope.dtype) for corner in corners)
    is_largest = windows == largest[:, :, None, :, None]
    slopes = jnp.where(is_largest, share[:, :, None, :, None], 0.0).astype(x.dtype)
    rest = [(0, size - 2 * (size // 2)) for size in x.shape[1:3]]
    whole = slopes.reshape(x.shape[0], 2 * largest.shape[1], 2 * largest.shape[2], x.shape[3])
    return (jnp.pad(whole, ((0, 0), *rest, (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def logistic(num_features: int, num_classes: int) -> Callable[..., MLP]:
    """Return an NNX factory of multinomial logistic regressions on flattened inputs, which start from zero.

    Args:
      num_features: numbers in one flattened input.
      num_classes: outputs.

    Raises:
      ValueError: if a size is not a positive integer.
    """
    sizes = [checks.count(num_features, "num_features"), checks.count(num_classes, "num_classes")]
    return functools.partial(MLP, sizes, init=nnx.initializers.zeros)


def mlp(sizes: Sequence[int]) -> Callable[..., MLP]:
    """Return an NNX factory of `MLP`s.

    Args:
      sizes: width of the input, of each hidden layer and of the output; `(64, 10)` is a linear model.

    Raises:
      ValueError: if there are fewer than two sizes or one is not a positive integer.
    """
    checks.require(len(sizes) >= 2, "at least two sizes, input and output", sizes)
    widths = [checks.count(size, "each of sizes") for size in sizes]
    return functools.partial(MLP, widths)


def cnn(shape: Sequence[int], num_classes: int, channels: Sequence[int] = (16, 32)) -> Callable[..., CNN]:
    """Return an NNX factory of `CNN`s.

    Args:
      shape: of one image, `(H, W)` or `(H, W, C)`, for example `(28, 28)` or `(32, 32, 3)`.
      num_classes: outputs.
      channels: of each convolution; every one halves the sides of the image.

    Raises:
      ValueError: if a size is not a positive integer, or the image is too small for so many convolutions.
    """
    sizes = [checks.count(size, "each of shape") for size in shape]
    checks.require(len(sizes) in (2, 3), "shape (H, W) or (H, W, C)", tuple(shape))
    widths = [checks.count(size, "each of channels") for size in channels]
    smallest = 2 ** len(widths)
    checks.require(min(sizes[:2]) >= smallest, f"sides of at least {smallest} for {len(widths)} pools", sizes[:2])
    return functools.partial(CNN, sizes, widths, checks.count(num_classes, "num_classes"))


def resnet9(num_classes: int = 10, *, num_channels: int = 3, width: int = 64) -> Callable[..., ResNet9]:
    """Return an NNX factory of `ResNet9`s for images `[B, H, W, num_channels]` with sides of at least 8.

    Args:
      num_classes: outputs.
      num_channels: of the images.
      width: channels of the first layer, a multiple of 16; the last has eight times as many.

    Raises:
      ValueError: if a size is not a positive integer or `width` is not a multiple of 16.
    """
    checks.require(checks.count(width, "width") % _RESNET_GROUPS == 0, f"width a multiple of {_RESNET_GROUPS}", width)
    num_channels, num_classes = checks.count(num_channels, "num_channels"), checks.count(num_classes, "num_classes")
    return functools.partial(ResNet9, num_channels, width, num_classes)


def bag_of_embeddings(num_tokens: int, num_classes: int, *, width: int = 64) -> Callable[..., BagOfEmbeddings]:
    """Return an NNX factory of text classifiers on tokens int `[B, L]`, 0 to `num_tokens - 1`, 0 for padding.

    Args:
      num_tokens: size of the vocabulary, padding included; at least 2.
      num_classes: outputs.
      width: of an embedding.

    Raises:
      ValueError: if a size is not a positive integer.
    """
    num_tokens, width = checks.count(num_tokens, "num_tokens", 2), checks.count(width, "width")
    return functools.partial(BagOfEmbeddings, num_tokens, width, checks.count(num_classes, "num_classes"))
