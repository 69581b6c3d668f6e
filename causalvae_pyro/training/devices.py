"""Device, processes and precision of a training run, through Hugging Face's accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from causalvae_pyro.guides import GuideWrapper
from causalvae_pyro.utils.compat import accelerate_state, compiled_calls

__all__ = ["networks_of", "prepare_networks", "reproducible", "resolve_device", "training_accelerator"]

PRECISIONS = ("no", "fp16", "bf16")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device to use: ``"auto"`` is CUDA where there is one, then Apple's MPS, then the CPU.

    Raises:
        ValueError: If the device is not a device, or this machine does not have it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: got {str(device)!r}; valid: 'auto', 'cpu', 'cuda', 'cuda:0', ..., 'mps'") from None
    if resolved.type == "cuda" and not (torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ValueError(f"device: got {str(device)!r}, but PyTorch finds {found} CUDA devices here; valid: 'auto', 'cpu'")
    if resolved.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device: got {str(device)!r}; valid: 'auto', 'cpu', 'cuda', 'cuda:0', ..., 'mps'")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device: got {str(device)!r}, but PyTorch finds no MPS device here; valid: 'auto', 'cpu'")
    return resolved


@contextmanager
def training_accelerator(device: str | torch.device, mixed_precision: str | None) -> Iterator[Any]:
    """The accelerator of a training run, as a context.

    Where the process was started by ``accelerate launch`` or ``torchrun`` it is one of several. An accelerator that the user has
    made in this process is used as it is; accelerate keeps one state for all of a process, which is left as it was found.

    Args:
        device: As for :func:`resolve_device`. With several processes ``"auto"`` is each one's own GPU, or ``"cpu"``.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``; ``None`` is what the user's accelerator or ``accelerate launch`` was
            told, or ``"no"``.

    Raises:
        ValueError: If the device or the precision is not to be had, or the user's accelerator has another.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradScalerKwargs

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if mixed_precision is not None and mixed_precision not in PRECISIONS:
        raise ValueError(f"mixed_precision: got {mixed_precision!r}; valid: {', '.join(map(repr, PRECISIONS))}")
    if several and str(device) not in ("auto", "cpu"):
        raise ValueError(f"device: got {str(device)!r} with several processes; valid: 'auto' (each one's own GPU), 'cpu'")
    resolved = resolve_device(device)
    if mixed_precision == "fp16" and resolved.type == "cpu":
        raise ValueError("mixed_precision: got 'fp16' on a CPU; valid there: 'no', 'bf16'")
    # The loss is a sum over pixels and images: its gradients are large, and 65536 times them are beyond half precision.
    handlers = [GradScalerKwargs(init_scale=1.0)]
    with accelerate_state(several) as theirs:
        if theirs:
            accelerator = Accelerator()
            wanted = resolved.type, mixed_precision or accelerator.mixed_precision
            if wanted != (accelerator.device.type, accelerator.mixed_precision):
                raise ValueError(
                    f"accelerator: this process has one on {accelerator.device} with mixed precision "
                    f"{accelerator.mixed_precision!r}, but fit was asked for {resolved}, {mixed_precision!r}; pass the one to use"
                )
            yield accelerator
        elif several:
            yield Accelerator(cpu=str(device) == "cpu", mixed_precision=mixed_precision, kwargs_handlers=handlers)
        else:
            with _environment("ACCELERATE_TORCH_DEVICE", str(resolved)):
                accelerator = Accelerator(cpu=resolved.type == "cpu", mixed_precision=mixed_precision, kwargs_handlers=handlers)
            yield accelerator


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def reproducible(deterministic: bool) -> Iterator[None]:
    """Deterministic algorithms only, for a while; operations that have none raise an error that names them."""
    if not deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # Has to be set before CUDA's first matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def networks_of(model: nn.Module, guide: nn.Module, terms: Sequence[Any] = ()) -> list[nn.Module]:
    """The networks that images go through: decoder, encoders, critics of the loss's terms. They take nearly all of the time."""
    while isinstance(guide, GuideWrapper):
        guide = guide.guide
    children = [dict(root.named_children()) if isinstance(root, nn.Module) else {} for root in (model, guide, *terms)]
    names = ("decoder", "encoder", "noise_encoder", "pyramid", "discriminator")
    found = [parts.get(name) for parts in children for name in names]
    found += [network for parts in children for network in parts.get("classifiers", ())]  # type: ignore[union-attr]
    return [network for network in dict.fromkeys(found) if network is not None]


@contextmanager
def prepare_networks(networks: Sequence[nn.Module], accelerator: Any, compiled: bool) -> Iterator[None]:
    """Mixed precision and compilation of these networks alone, for a while; the memory layout of their convolutions, for good.

    Densities, mechanisms and heads stay in full precision: a concept read to a half per cent, or a mechanism whose noise is
    smaller than its rounding, is no longer what the bound is about.
    """
    with ExitStack() as stack:
        for network in networks:
            # On a CPU group normalisation takes five times as long with channels last as without.
            grouped = accelerator.device.type == "cpu" and any(isinstance(layer, nn.GroupNorm) for layer in network.modules())
            for layer in () if grouped else network.modules():
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                    # Channels last: a tenth to a fifth less time on a CPU, and what a GPU's half-precision units want.
                    layer.to(memory_format=torch.channels_last)
            if compiled:
                stack.enter_context(compiled_calls(network))
            if accelerator.mixed_precision != "no":
                stack.enter_context(_in_mixed_precision(network, accelerator))
        yield


@contextmanager
def _in_mixed_precision(network: nn.Module, accelerator: Any) -> Iterator[None]:
    from accelerate.utils import convert_to_fp32

    # Some hold a forward of their own already, as those that something else has wrapped.
    before, own = network.forward, "forward" in vars(network)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with accelerator.autocast():
            return convert_to_fp32(before(*args, **kwargs))

    network.forward = forward
    if hasattr(network, "precision"):
        network.precision = accelerator.autocast
    try:
        yield
    finally:
        vars(network).pop("precision", None)
        del network.forward
        if own:
            network.forward = before
