"""Training submodels in PyTorch; imported by the workers only."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers.common import Setting, Task, Trainable, batch_indices, cross_entropy, learning_rates
from benchmarks.peers.torch_models import APPLY, Params, Single, Stack, initial

_WARM_UP_STEPS = 3
_EVALUATION_ROWS = 1024

Gradients = Callable[[Params, torch.Tensor], Any]
"""Parameters and rows `[K B]` of the training set to the gradient of every submodel's own mean loss."""

Step = Callable[[Params, Params, torch.Tensor, Any], None]
"""`(parameters, moments, rows, learning rate)`: one step of a stack of submodels, in place."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Share:
    """Submodels that are trained together.

    Attributes:
      params: initial parameters, with a leading axis `K` unless the variant is "loop".
      rows: int32 `[T, K B]`, or `[T, B K]` for grouped convolutions; the batches.
      size: `K`.
    """

    params: Params
    rows: torch.Tensor
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Data:
    """The training set on the device: x `[n, F]`, `[n, C, H, W]` or for channels-last `[n, H, W, C]`, and y `[n]`."""

    x: torch.Tensor
    y: torch.Tensor


def prepare(task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting) -> Trainable:
    """Put data, batches and initial parameters on the device, and warm up the step of every size of stack."""
    torch.set_num_threads(setting["threads"])
    device = torch.device(setting.get("device", "cpu"))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    data = _data(task, setting, device)
    count = -(-len(masks) // setting.get("stack", 1))
    parts = np.array_split(np.arange(len(masks)), count)
    shares = [_share(task, masks[part], seeds[part], setting, device) for part in parts]
    steps = {share.size: _step(task, setting, data, share.size) for share in shares}
    rates: list[Any] = learning_rates(task).tolist()
    if setting.get("compile"):
        rates = [torch.tensor(rate, dtype=torch.float32, device=device) for rate in rates]
    finals: list[Params] = []

    def train() -> None:
        finals[:] = [_fit(share, steps[share.size], rates, setting) for share in shares]
        if device.type == "cuda":
            torch.cuda.synchronize()

    def objectives() -> np.ndarray:
        each = [params for share, stack in zip(shares, finals, strict=True) for params in _unstacked(stack, setting)]
        return np.array([_objective(task, params, mask) for params, mask in zip(each, masks, strict=True)])

    for share in {share.size: share for share in shares}.values():
        _fit(share, steps[share.size], rates[:_WARM_UP_STEPS], setting)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Trainable(train, objectives)


def _data(task: Task, setting: Setting, device: torch.device) -> _Data:
    """Move the training set to the device, in the layout that makes a batch one gather of rows."""
    x = torch.tensor(_images(task))
    if setting.get("channels_last"):
        x = x.permute(0, 2, 3, 1).contiguous()
    return _Data(x.to(device), torch.tensor(task.y, device=device))


def _images(task: Task) -> np.ndarray:
    """Return the inputs as `[n, F]` for the mlp and as `[n, C, H, W]` for the others."""
    if task.model == "mlp":
        return task.x.reshape(len(task.x), -1)
    return task.x[:, None] if task.x.ndim == 3 else np.ascontiguousarray(task.x.transpose(0, 3, 1, 2))


def _share(task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting, device: torch.device) -> _Share:
    """Draw batches and initial parameters of some submodels."""
    draws = [batch_indices(*pair, task.num_steps, task.batch_size) for pair in zip(masks, seeds.tolist(), strict=True)]
    batch_first = setting["variant"] == "stack" and task.model != "mlp"
    rows = np.stack(draws, axis=2 if batch_first else 1).reshape(task.num_steps, -1)
    stacked = [np.stack(arrays) for arrays in zip(*(initial(task, seed) for seed in seeds.tolist()), strict=True)]
    params = [torch.tensor(array, device=device) for array in stacked]
    if setting["variant"] == "loop":
        params = [p[0] for p in params]
    if setting.get("channels_last"):
        params = [p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p for p in params]
    return _Share(params, torch.tensor(rows, device=device), len(masks))


def _unstacked(stack: Params, setting: Setting) -> list[Params]:
    """Take a stack apart into one list of parameters per submodel."""
    return [stack] if setting["variant"] == "loop" else [list(params) for params in zip(*stack, strict=True)]


def _fit(share: _Share, step: Step, rates: list[Any], setting: Setting) -> Params:
    """Train a stack from its initial parameters, one step per rate."""
    params = [p.clone().requires_grad_(not _is_functional(setting)) for p in share.params]
    moments = [torch.zeros_like(p) for p in share.params]
    for rows, rate in zip(share.rows, rates, strict=False):
        step(params, moments, rows, rate)
    return [p.detach() for p in params]


def _is_functional(setting: Setting) -> bool:
    """Whether gradients come from `torch.func`, to which parameters that require gradients would only be a burden."""
    return setting["variant"] == "vmap" or bool(setting.get("compile"))


def _step(task: Task, setting: Setting, data: _Data, size: int) -> Step:
    """Return the training step: gradients, then momentum as in `torch.optim.SGD`."""
    gradients = _gradients(task, setting, data, size)

    @torch.no_grad()
    def update(params: Params, moments: Params, grads: Any, rate: float) -> None:
        """Do what `torch.optim.SGD(fused=True)` does, without its bookkeeping."""
        torch._fused_sgd_(
            params, grads, moments, lr=rate, momentum=task.momentum, weight_decay=0.0, dampening=0.0,
            nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip

    def eager(params: Params, moments: Params, rows: torch.Tensor, rate: Any) -> None:
        update(params, moments, gradients(params, rows), rate)

    def compiled(params: Params, moments: Params, rows: torch.Tensor, rate: Any) -> None:
        for p, m, g in zip(params, moments, gradients(params, rows), strict=True):
            m.mul_(task.momentum).add_(g)
            p.sub_(m * rate)

    if not setting.get("compile"):
        return eager
    return torch.compile(compiled, dynamic=False, fullgraph=True)


def _gradients(task: Task, setting: Setting, data: _Data, size: int) -> Gradients:
    """Return the gradients, by `torch.func` where they are mapped or compiled."""
    if setting["variant"] == "vmap":
        return _mapped_gradients(task, setting, data, size)
    loss = _loop_loss(task, setting, data) if setting["variant"] == "loop" else _stack_loss(task, setting, data, size)
    if setting.get("compile"):
        return torch.func.grad(loss)
    return lambda params, rows: torch.autograd.grad(loss(params, rows), params)


def _mapped_gradients(task: Task, setting: Setting, data: _Data, size: int) -> Gradients:
    """Map the gradient of one submodel's loss over a stack."""
    shape = (size, task.batch_size, *data.x.shape[1:])

    def loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = _apply(task, setting, Single(), params, x.t() if task.model == "mlp" else x)
        return functional.cross_entropy(logits[None], y[None])

    mapped = torch.func.vmap(torch.func.grad(loss))

    def gradients(params: Params, rows: torch.Tensor) -> Any:
        x, y = data.x.index_select(0, rows), data.y.index_select(0, rows)
        return mapped(params, x.view(shape), y.view(shape[:2]))

    return gradients


def _loop_loss(task: Task, setting: Setting, data: _Data) -> Callable[[Params, torch.Tensor], torch.Tensor]:
    """Return the mean loss of one submodel on a batch."""

    def loss(params: Params, rows: torch.Tensor) -> torch.Tensor:
        x = data.x.index_select(0, rows)
        if task.model == "mlp":
            x = x.t()
        elif setting.get("channels_last"):
            x = x.permute(0, 3, 1, 2)
        logits = _apply(task, setting, Single(), params, x)
        return functional.cross_entropy(logits[None], data.y.index_select(0, rows)[None])

    return loss


def _stack_loss(task: Task, setting: Setting, data: _Data, size: int) -> Callable[[Params, torch.Tensor], torch.Tensor]:
    """Return the sum of the mean losses of a stack; the gradient of each parameter is that of its submodel."""
    layers = Stack(size)

    def loss(params: Params, rows: torch.Tensor) -> torch.Tensor:
        x, y = data.x.index_select(0, rows), data.y.index_select(0, rows)
        if task.model == "mlp":
            x, y = x.view(size, task.batch_size, -1).transpose(1, 2), y.view(size, -1)
        else:
            x, y = x.view(task.batch_size, -1, *x.shape[2:]), y.view(-1, size).t()
        return functional.cross_entropy(_apply(task, setting, layers, params, x), y, reduction="sum") / task.batch_size

    return loss


def _apply(task: Task, setting: Setting, layers: Any, params: Params, x: torch.Tensor) -> torch.Tensor:
    """Apply the model, in bfloat16 where the setting says so; logits are float32."""
    if not setting.get("bfloat16"):
        return APPLY[task.model](layers, params, x)
    with torch.autocast(x.device.type, torch.bfloat16):
        return APPLY[task.model](layers, params, x).float()


@torch.no_grad()
def _objective(task: Task, params: Params, mask: np.ndarray) -> float:
    """Return the mean cross-entropy of a final model over its own subset: logits in float32, the rest in float64."""
    x = torch.tensor(_images(task)[mask]).to(params[0].device)
    parts = [part.t() if task.model == "mlp" else part for part in x.split(_EVALUATION_ROWS)]
    logits = torch.cat([APPLY[task.model](Single(), params, part) for part in parts], dim=1)
    return cross_entropy(logits.t().cpu().numpy(), task.y[mask])
