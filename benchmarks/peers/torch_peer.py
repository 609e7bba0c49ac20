"""PyTorch: a loop over submodels, and stacks of them written out or by `torch.func.vmap`, eager and compiled.

The models are plain functions of their parameters, so that `torch.func.functional_call` has nothing left to do.
"""

import importlib.util
from collections.abc import Sequence
from importlib import metadata

import numpy as np

from benchmarks.peers import workers
from benchmarks.peers.common import Outcome, Setting, Task, Trainable, layouts

# How many submodels share a call; what was fastest when tried is first.
_STACKS = {
    "cpu": {"mlp": (16, 8, 32), "cnn": (4, 16), "resnet9": (2,)},
    "cuda": {"mlp": (128, 32, 512), "cnn": (32, 8, 128), "resnet9": (8, 2)},
}


def missing(task: Task) -> str:
    """Return why this peer does not run."""
    if task.model == "logistic":
        return "the PyTorch peer trains by steps; logistic regression is compared with scikit-learn"
    return "" if importlib.util.find_spec("torch") else "PyTorch is not installed: pip install torch"


def version() -> str:
    """Return the version of PyTorch."""
    return metadata.version("torch")


def settings(task: Task) -> list[Setting]:
    """Return the settings to try on this machine: on its GPU if PyTorch sees one, else on its cores."""
    import torch

    return _on_gpu(task) if torch.cuda.is_available() else _on_cores(task)


def _on_cores(task: Task) -> list[Setting]:
    """List the settings for cores: the variants over all layouts, stack sizes and compilation over the first only."""
    every = layouts()
    sizes = _STACKS["cpu"][task.model]
    tried = _each(every, {"variant": "loop"}) + _each(every[:1], {"variant": "loop", "compile": True})
    if task.model != "mlp":
        tried += [{**setting, "channels_last": True} for setting in tried]
    stacks = [{"variant": variant, "stack": size} for variant in ("stack", "vmap") for size in sizes]
    tried += _each(every[:1], *stacks)
    if task.model == "mlp":
        tried += _each(every[1:], *(stack for stack in stacks if stack["stack"] == sizes[0]))
        tried += _each(every[:1], *({**stack, "compile": True} for stack in stacks))
    return tried


def _on_gpu(task: Task) -> list[Setting]:
    """List the settings for a GPU: one process, larger stacks, and bfloat16 for the large model."""
    tried: list[Setting] = [{"variant": "loop"}]
    if task.model != "mlp":
        tried.append({"variant": "loop", "channels_last": True})
    for variant in ("stack", "vmap"):
        tried += [{"variant": variant, "stack": size} for size in _STACKS["cuda"][task.model]]
    tried += [{**setting, "compile": True} for setting in tried]
    precision = {"bfloat16": True} if task.model == "resnet9" else {}
    return _each([{"processes": 1, "threads": 1, "device": "cuda", **precision}], *tried)


def _each(layouts: Sequence[Setting], *variants: Setting) -> list[Setting]:
    """Combine every variant with every layout."""
    return [{**layout, **variant} for variant in variants for layout in layouts]


def run(task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting, repeats: int = 1) -> Outcome:
    """See `Peer.run`."""
    return workers.race(prepare, task, masks, seeds, setting, repeats)


def prepare(task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting) -> Trainable:
    """See `torch_training.prepare`; PyTorch is imported in the worker, not in the process that starts it."""
    from benchmarks.peers import torch_training

    return torch_training.prepare(task, masks, seeds, setting)
