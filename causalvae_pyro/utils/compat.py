"""Private parts of other libraries for which they have no public way, all in one place.

Every function says which private part it uses and why. ``tests/utils/test_compat.py`` fails when one of them goes away or changes
its meaning. What a subclass overrides or calls of its base class (a Pyro messenger's ``_pyro_sample``, a torch transform's
``_call``, ``ELBO._get_trace``) stands in the subclass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.nn import PyroModule
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # what all kinds of it have in common

__all__ = [
    "BatchNorm",
    "accelerate_state",
    "compiled_calls",
    "deterministic_infer",
    "ensure_local_params",
    "has_bf16",
    "is_conditioned",
    "is_deterministic",
    "is_pyro_attribute",
    "is_replaced_by_do",
    "lpips_network",
    "mask_of",
    "random_attributes",
    "rename_root",
    "uncompiled",
    "uncompiled_name",
    "version_of",
]


@contextmanager
def accelerate_state(several: bool) -> Iterator[bool]:
    """Leaves accelerate's process-wide state as it was found.

    accelerate keeps it in ``_shared_state`` of three classes; making one of them to ask for it would initialise it.

    Args:
        several: Several processes train; they stay connected.

    Yields:
        Whether the process has an accelerator, or a state of one, already.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    accelerator, partial = bool(AcceleratorState._shared_state), bool(PartialState._shared_state)
    gradients = dict(GradientState._shared_state)
    try:
        yield accelerator or partial
    finally:
        if not accelerator:
            AcceleratorState._reset_state(reset_partial_state=not several and not partial)
        GradientState._shared_state.clear()
        GradientState._shared_state.update(gradients)


@contextmanager
def compiled_calls(network: nn.Module) -> Iterator[None]:
    """Calls of the network run compiled, for a while. ``nn.Module.compile`` sets ``_compiled_call_impl`` and has no undo."""
    before = network._compiled_call_impl
    network.compile()
    try:
        yield
    finally:
        network._compiled_call_impl = before


def uncompiled(module: Any) -> Any:
    """What ``torch.compile`` was given to make this module, which it keeps in ``_orig_mod``; any other value as it is."""
    return getattr(module, "_orig_mod", module) if isinstance(module, nn.Module) else module


def uncompiled_name(name: str) -> str:
    """A parameter's name without the ``_orig_mod`` of modules that are compiled."""
    return name.replace("_orig_mod.", "")


def version_of(tensor: Tensor) -> int:
    """A number that grows with every change of the tensor in place. Torch counts it in ``_version``, for autograd."""
    return tensor._version


def mask_of(distribution: Any) -> Any:
    """The mask of a Pyro ``MaskedDistribution``, which keeps it in ``_mask`` and has no property for it."""
    return distribution._mask


def ensure_local_params(module: nn.Module) -> None:
    """Lets a module use ``module_local_params`` that was made without that setting of Pyro's.

    ``PyroModule`` makes the place for local parameters, ``_pyro_context.param_state``, only in its constructor.
    """
    for part in module.modules():
        if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
            part._pyro_context.param_state = {"params": {}, "constraints": {}}


def rename_root(module: PyroModule, old: str, new: str) -> None:
    """Renames a root module, and with it its parts, in Pyro's parameter store.

    ``PyroModule`` keeps its full name in ``_pyro_name`` and can only be renamed before it has run.
    """
    for part in module.modules():
        if isinstance(part, PyroModule) and (part._pyro_name == old or part._pyro_name.startswith(f"{old}.")):
            part._pyro_name = new + part._pyro_name.removeprefix(old)


def is_pyro_attribute(module: PyroModule, name: str) -> bool:
    """Whether an attribute is a parameter or sample of Pyro's, listed in ``_pyro_params`` and ``_pyro_samples``."""
    own = module.__dict__
    return name in own.get("_pyro_params", ()) or name in own.get("_pyro_samples", ())


def random_attributes(module: Any) -> list[tuple[PyroModule, str]]:
    """Which attributes of a module and its parts are a ``PyroSample``; ``PyroModule`` lists them in ``_pyro_samples``."""
    parts = module.modules() if isinstance(module, nn.Module) else ()
    return [(part, name) for part in parts if isinstance(part, PyroModule) for name in part._pyro_samples]


def is_conditioned(name: str) -> bool:
    """Whether ``poutine.condition`` gives this site its value: it stands in ``_PYRO_STACK``, the values in its ``data``."""
    return any(isinstance(handler, ConditionMessenger) and name in handler.data for handler in _PYRO_STACK)


def is_replaced_by_do(message: Mapping[str, Any]) -> bool:
    """Whether ``poutine.do`` sets this site: it marks the message with ``_intervener_id``."""
    return message.get("_intervener_id") is not None


def deterministic_infer(**infer: Any) -> Any:
    """The ``infer`` of a ``pyro.deterministic`` site with more in it: ``pyro.deterministic`` sets the mark and takes no infer."""
    return {"_deterministic": True, **infer}


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether a site is one of ``pyro.deterministic``, which its ``infer`` says under ``_deterministic``."""
    return bool(site["infer"].get("_deterministic"))


def lpips_network(backbone: Mapping[str, Tensor]) -> nn.Module:
    """LPIPS of torchmetrics on AlexNet with weights that are given.

    Its public class downloads them. ``_NoTrainLpips`` with ``pnet_rand`` does not, and has AlexNet's layers, by their numbers,
    in ``net.slice1`` to ``net.slice5``.

    Args:
        backbone: The state of torchvision's AlexNet, with ``features.0.weight`` and so on.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    network = _NoTrainLpips(net="alex", pnet_rand=True)
    net: Any = network.net
    for name, value in net.state_dict().items():
        number, kind = name.split(".")[1:]
        value.copy_(backbone[f"features.{number}.{kind}"])
    return network.eval()


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself, faster than in full precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Private, and there since torch 2.5; without it the answer is no.
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
