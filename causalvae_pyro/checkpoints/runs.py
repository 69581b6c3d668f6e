"""Saving and loading a trained pair: ``config.json`` says how it was made, ``model.safetensors`` holds its weights.

Nothing is pickled. A file is written under another name first and then renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from causalvae_pyro import guides, likelihoods, networks, priors, scm
from causalvae_pyro.checkpoints.bounds import BoundedMemory
from causalvae_pyro.checkpoints.pretrained import PRETRAINED, run_directory
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.scm.pairing import check_pair
from causalvae_pyro.training import Callback, History, TrainingState
from causalvae_pyro.training.monitor import non_finite, shortened
from causalvae_pyro.utils.compat import uncompiled, uncompiled_name
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.files import write_bytes, write_text

__all__ = ["Run", "SaveCheckpoint", "are_scores_of", "load", "load_finite", "save", "weights_digest"]

FORMAT = 1
CONFIG, WEIGHTS, HISTORY = "config.json", "model.safetensors", "history.csv"
_DIGEST = "modules"
#: What weights may be of, where the module has floating point numbers.
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Constants that older versions left to the configuration.
_CONSTANTS = ("shift", "scale", "std", "label_shift", "label_scale")


@dataclass
class Run:
    """A model with its guide.

    Attributes:
        model: The :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        config: What ``config.json`` holds beside the modules: any JSON-able mapping, e.g. data set and training options. Under
            ``"units"`` it may map concepts to the units of their labels, which figures then show.

    Raises:
        ValueError: If the guide maps through another causal layer than the model's.
    """

    model: CausalVAE
    guide: nn.Module
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pair(self.model, self.guide)

    @property
    def graph(self) -> CausalGraph:
        """The causal graph over the concepts."""
        return self.model.graph

    @property
    def data(self) -> dict[str, Any]:
        """What the configuration says of the data; empty where it says nothing that has names."""
        data = self.config.get("data")
        return dict(data) if isinstance(data, Mapping) else {}

    @property
    def units(self) -> dict[str, str]:
        """The units of the labels by concept, as far as the configuration knows them."""
        units = self.config.get("units")
        if not isinstance(units, Mapping):
            return {}
        return {name: unit for name in self.graph.names if isinstance(unit := units.get(name), str) and unit}


def save(run: Run, path: str | os.PathLike) -> None:
    """Writes ``config.json`` and ``model.safetensors`` into a directory, which is made where it is missing.

    Weights are written as they are, finite or not; :class:`SaveCheckpoint` keeps those of a diverged training from the last
    good ones.

    Args:
        run: The pair and its configuration.
        path: The directory.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    names = ("scm", "prior", "decoder", "likelihood")
    options: dict[str, Any] = {"noise_dim": run.model.noise_dim}
    if run.model.plate != "data":
        options["plate"] = run.model.plate
    modules = {
        "model": {
            "class": type(run.model).__name__,
            "args": {name: _describe(getattr(run.model, name)) for name in names} | options,
        },
        "guide": _describe(run.guide, {"scm": run.model.scm, "model": run.model}),
    }
    config = {"format": FORMAT, **{k: v for k, v in run.config.items() if k not in ("format", "modules")}, "modules": modules}
    write_bytes(directory / WEIGHTS, safetensors.torch.save(_weights_of(run), {_DIGEST: _digest(modules)}))
    write_text(directory / CONFIG, json.dumps(config, indent=1) + "\n")


@torch.inference_mode(False)
def load(
    path: str | os.PathLike, *, device: str | torch.device = "cpu", classes: Mapping[str, Callable[..., Any]] | None = None
) -> Run:
    """Restores what :func:`save` wrote.

    Args:
        path: The directory of the run; or ``"pendulum"`` or ``"flow"``, unless there is a directory of that name, for a trained
            run that comes with the package.
        device: Where to put model and guide.
        classes: For modules defined outside this package: the class (or a function that makes the module) by name.

    Returns:
        The run, in evaluation mode, with whatever weights were saved: NaN and infinities are read as such; see
        :func:`load_finite`. It can be trained, also where it is loaded under ``torch.inference_mode()``.

    Raises:
        FileNotFoundError: If the directory or one of its files is missing.
        ValueError: If a file is damaged or of another format, the two were not saved together, the configuration asks for far
            more memory than the weights take, or a class is neither ours nor in ``classes``.
    """
    directory = run_directory(path)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"path: {directory / name} does not exist; expected a directory written by causalvae train or save(), "
                f"or one of {', '.join(PRETRAINED)}, which come with the package"
            )
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        found = config["format"]
        modules = config["modules"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"path: {directory / CONFIG} is not a run's configuration ({type(error).__name__}: {error})") from None
    if found != FORMAT:
        raise ValueError(f"path: {directory / CONFIG} has format {found!r}; this version reads format {FORMAT}")
    try:
        weights, digest = _read_weights(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"path: {directory / WEIGHTS} is truncated or not a safetensors file ({error}); copy or save the run again"
        ) from None
    known = {**_own_classes(), **(classes or {})}
    size = (directory / WEIGHTS).stat().st_size
    try:
        # Modules from outside the package may hold what they like.
        with nullcontext() if classes else BoundedMemory(32 * size + 2**26):
            model = _restore(modules["model"], known, {})
            guide = _restore(modules["guide"], known, {"scm": model.scm, "model": model})
        for name, module in (("model", model), ("guide", guide)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"the {name} is a {type(module).__name__}")
    except _UnknownClassError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError, MemoryError, RuntimeError) as error:
        raise ValueError(
            f"path: {directory / CONFIG} does not describe a model and a guide ({type(error).__name__}: {error})"
        ) from None
    for prefix, module in (("model", model), ("guide", guide)):
        own = {name.removeprefix(f"{prefix}."): t for name, t in weights.items() if name.startswith(f"{prefix}.")}
        for name, tensor in module.state_dict().items():
            found = own.get(name, tensor).dtype
            if found not in _PRECISIONS if tensor.is_floating_point() else found != tensor.dtype:
                raise ValueError(f"path: {directory / WEIGHTS} holds {prefix}.{name} as {found}, which no model computes with")
        dtypes = {t.dtype for t in own.values() if t.is_floating_point()}
        if len(dtypes) == 1:
            module.to(dtypes.pop())
        own = {name: t for name, t in module.named_buffers() if name.rpartition(".")[-1] in _CONSTANTS} | own
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"path: {directory / WEIGHTS} does not fit {directory / CONFIG}: {reason}") from None
    if digest not in (None, _digest(modules)):
        raise ValueError(
            f"path: {directory / WEIGHTS} was saved with other modules than {directory / CONFIG} describes, as when saving or "
            "copying a run over another is cut off; copy or save the run again"
        )
    model.to(device).eval()
    guide.to(device).eval()
    return Run(model, guide, {k: v for k, v in config.items() if k not in ("format", "modules")})


def load_finite(path: str | os.PathLike, *, device: str | torch.device = "cpu") -> Run:
    """As :func:`load`, for those who use the run: one whose training has diverged is refused.

    Args:
        path: The directory of the run.
        device: Where to put model and guide.

    Raises:
        FileNotFoundError: See :func:`load`.
        ValueError: See :func:`load`; and if a parameter is NaN or infinite.
    """
    run = load(path, device=device)
    if spoilt := non_finite(model=run.model, guide=run.guide):
        raise ValueError(f"RUN: {shortened(spoilt)} of {os.fspath(path)} holds NaN or infinities: its training has diverged")
    return run


def weights_digest(run: Run) -> str:
    """SHA-256 of all weights with their names; ``metrics.json`` keeps it under ``"weights"``, since scores are of no others."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_weights_of(run).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def are_scores_of(run: Run, scores: Mapping[str, Any]) -> bool:
    """Whether scores may be those of a run's weights: not if they name others. A training writes weights before it has scores."""
    return scores.get("weights") in (None, weights_digest(run))


class SaveCheckpoint(Callback):
    """Saves weights, configuration and history after every few epochs, and when training is interrupted.

    Args:
        path: The directory.
        config: See :class:`Run`.
        every: Epochs between two saves.
    """

    def __init__(self, path: str | os.PathLike, config: Mapping[str, Any] | None = None, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every: got {every}; must be at least 1")
        self.path, self.config, self.every = Path(path), dict(config or {}), every

    def on_epoch_end(self, state: TrainingState) -> None:
        if state.epoch % self.every == 0:
            self._save(state)

    def on_interrupt(self, state: TrainingState) -> None:
        # A diverged model must not replace the last good one.
        if all(bool(torch.isfinite(p).all()) for module in (state.model, state.guide) for p in module.parameters()):
            self._save(state)

    def _save(self, state: TrainingState) -> None:
        progress = {"epoch": state.epoch, "step": state.step, "interrupted": state.interrupted}
        save(Run(state.model, state.guide, {**self.config, "progress": progress}), self.path)  # type: ignore[arg-type]
        _save_history(state.history, self.path)


class _UnknownClassError(ValueError):
    pass


def _weights_of(run: Run) -> dict[str, torch.Tensor]:
    return {
        # Names as they are without torch.compile, which load does not do.
        # safetensors holds no two tensors in one memory, as tied weights are.
        f"{prefix}.{uncompiled_name(name)}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for prefix, module in (("model", run.model), ("guide", run.guide))
        for name, tensor in module.state_dict().items()
    }


def _digest(modules: Any) -> str:
    """Ties the weights to their configuration: two files are not replaced at one moment, and other weights may fit by chance."""
    return hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest()


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    with safe_open(path, framework="pt") as file:
        # Without the digest: written by an older version.
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_DIGEST)  # noqa: SIM118


def _save_history(history: History, directory: Path) -> None:
    if len(history):
        history.to_csv(directory / HISTORY)


def _own_classes() -> dict[str, Callable[..., Any]]:
    return {"CausalVAE": CausalVAE} | {
        name: getattr(module, name) for module in (scm, priors, networks, likelihoods, guides) for name in module.__all__
    }


def _describe(value: Any, references: Mapping[str, Any] | None = None) -> Any:
    value = uncompiled(value)
    for name, target in (references or {}).items():
        if value is uncompiled(target):
            return {"ref": name}
    if isinstance(value, CausalGraph):
        return {"graph": value.to_config()}
    if isinstance(value, (nn.Module, Configurable)):
        # A module from outside the package is restored by the caller's own function, with no arguments recorded.
        args = getattr(value, "init_args", {}) if isinstance(value, Configurable) else {}
        return {"class": type(value).__name__, "args": {k: _describe(v, references) for k, v in args.items()}}
    if isinstance(value, (list, tuple)):
        return [_describe(item, references) for item in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"run: a module was made with {value!r}, which config.json cannot hold; use numbers, strings and lists")


def _restore(value: Any, classes: Mapping[str, Callable[..., Any]], references: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_restore(item, classes, references) for item in value]
    if not isinstance(value, dict):
        return value
    if "ref" in value:
        return references[value["ref"]]
    if "graph" in value:
        return CausalGraph(value["graph"]["names"], [tuple(edge) for edge in value["graph"]["edges"]])
    if value["class"] not in classes:
        name = value["class"]
        # What is no name must not be advised as code.
        named = name.isidentifier() and not keyword.iskeyword(name)
        advice = f"pass load(..., classes={{{name!r}: {name}}})" if named else "that is no name of a class"
        raise _UnknownClassError(f"classes: the run uses {name[:80]!r}, which this package does not define; {advice}")
    args = {k: _restore(v, classes, references) for k, v in value["args"].items()}
    return classes[value["class"]](*args.pop("*", ()), **args)
