"""Training a model and its guide."""

from __future__ import annotations

import csv
import io
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from causalvae_pyro.batches import TensorBatches, make_batches
from causalvae_pyro.files import write_text
from causalvae_pyro.local_params import local_params
from causalvae_pyro.missing import declare_missing
from causalvae_pyro.objectives import CausalELBO, LabelFit

__all__ = ["Callback", "History", "NonFiniteLossError", "TrainingState", "cosine_schedule", "fit", "resolve_device"]


class NonFiniteLossError(FloatingPointError):
    """A term of the loss became NaN or infinite; the message names it, and the step."""


@dataclass
class History:
    """One row per epoch: ``epoch``, ``step``, ``seconds``, ``images_per_second``, ``lr``, ``loss`` and the loss's terms.

    Losses and terms are means per image over the epoch.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, column: str) -> list[float]:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the rows, atomically."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(path, buffer.getvalue())


@dataclass
class TrainingState:
    """What a callback sees: the objects in training and the progress so far."""

    model: nn.Module
    guide: nn.Module
    optimizer: Optimizer
    history: History
    epoch: int = 0
    step: int = 0
    interrupted: bool = False


class Callback:
    """Base class of callbacks; override what is needed."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Called after every epoch."""

    def on_interrupt(self, state: TrainingState) -> None:
        """Called when Ctrl-C or a non-finite loss ends the training early, before the exception goes on."""


def cosine_schedule(progress: float) -> float:
    """Learning-rate factor at ``progress`` in [0, 1]: 2 % linear warm-up, then a cosine down to 2 %."""
    if progress < 0.02:
        return max(progress, 1e-3) / 0.02
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


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


def fit(
    model: nn.Module,
    guide: nn.Module,
    data: Dataset | tuple[Tensor, Tensor | None],
    *,
    objective: ELBO | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 2e-3,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    schedule: Callable[[float], float] | None = cosine_schedule,
    device: str | torch.device = "auto",
    seed: int = 0,
    labelled_repeats: int = 1,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> History:
    """Maximises a bound by stochastic variational inference.

    The pair becomes one ELBO module (``objective(model, guide)``) that a torch optimiser trains; for one seed, one order
    of the data and one learning rate this takes the same steps as :class:`pyro.infer.SVI`. Model and guide are trained
    in place and left on ``device`` in evaluation mode.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`, or any Pyro model module ``(x, labels)``.
        guide: Its guide, a module with the same signature.
        data: An image simulator (anything with ``images [N, C, H, W]`` and ``labels [N, n]``), a pair of tensors
            ``(images, labels)`` (uint8 images are divided by 255; ``labels`` may be ``None``), or a dataset of
            ``(image, labels)`` pairs with a length. Tensors stay on the device as they are. A missing label is NaN: an image
            may have none of its labels, or some of them.
        objective: Any Pyro ELBO. By default :class:`~causalvae_pyro.CausalELBO` with weights (0, 1) and
            :class:`~causalvae_pyro.LabelFit`: a bound on ``log p(x, u)``. Terms that are modules are trained too, and told of
            every epoch's end where they have ``on_epoch_end``.
        epochs: Passes over the data.
        batch_size: Images per step; the last batch of an epoch may be smaller.
        lr: Learning rate of the default optimiser, Adam. A module with an attribute ``lr_factor`` gets so many times that.
        optimizer: From parameters to an optimiser, instead of Adam.
        schedule: Factor of the learning rate as a function of progress in [0, 1]; ``None`` keeps it constant.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        seed: Seeds the order of the data and the sampling.
        labelled_repeats: Where labels are missing, how often an epoch shows each image that has some: so many times it counts
            in the objective. With few labels most batches would have none. Tensors and simulators only.
        callbacks: See :class:`Callback`.
        progress: Show a progress bar with loss, images/s and the time left.

    Returns:
        The history, one row per epoch.

    Raises:
        ValueError: If an argument is out of range, or images or labels are malformed.
        NonFiniteLossError: If a term of the loss becomes NaN or infinite.
        KeyboardInterrupt: On Ctrl-C, after the callbacks' ``on_interrupt``.
    """
    resolved = resolve_device(device)
    for argument, module in (("model", model), ("guide", guide)):
        if not isinstance(module, nn.Module):
            # Its parameters would stay as they are without a word.
            raise ValueError(
                f"{argument}: expected a module, got {type(module).__name__}; train plain functions with pyro.infer.SVI"
            )
    for argument, value in (("epochs", epochs), ("batch_size", batch_size), ("labelled_repeats", labelled_repeats)):
        if value < 1:
            raise ValueError(f"{argument}: got {value}; must be at least 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}; must lie in [0, 2**32)")
    if not lr > 0:
        raise ValueError(f"lr: got {lr}; must be > 0")
    batches = make_batches(data, batch_size, labelled_repeats, resolved, getattr(getattr(model, "scm", None), "graph", None))
    if isinstance(batches, TensorBatches) and batches.missing and any(getattr(m, "label_dim", 0) for m in guide.modules()):
        raise ValueError("labels: some are missing, but the guide's encoder reads them; give it label_dim=0, for q(eps | x)")
    objective = CausalELBO(terms=[LabelFit()]) if objective is None else objective
    pyro.set_rng_seed(seed)
    order = torch.Generator().manual_seed(seed)
    validate = is_validation_enabled()
    with local_params(model, guide), warnings.catch_warnings():
        # The monitor says more about them.
        warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
        loss_module = objective(model, guide).to(resolved).train()
        # Extra terms of the objective may learn too, such as the mechanisms of a graph search.
        terms = list(getattr(objective, "terms", ()))
        modules = [loss_module, *(term.to(resolved).train() for term in terms if isinstance(term, nn.Module))]
        parameters = [p for p in dict.fromkeys(chain.from_iterable(m.parameters() for m in modules)) if p.requires_grad]
        optim = torch.optim.Adam(_groups(modules, parameters, lr), fused=True) if optimizer is None else optimizer(parameters)
        rates = [group["lr"] for group in optim.param_groups]
        state = TrainingState(model, guide, optim, History())
        total = epochs * len(batches)
        monitor = _Monitor(objective, state, check_every=1 if resolved.type == "cpu" else 50)
        bar = tqdm(total=total, disable=not progress, unit="step", dynamic_ncols=True, mininterval=0.5)
        try:
            for epoch in range(1, epochs + 1):
                state.epoch = epoch
                monitor.start_epoch()
                bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
                for x, labels, missing in batches(order):
                    done = state.step / max(1, total - 1)
                    if isinstance(objective, CausalELBO):
                        objective.progress = done
                    if schedule is not None:
                        factor = schedule(done)
                        for group, rate in zip(optim.param_groups, rates, strict=True):
                            group["lr"] = rate * factor
                    optim.zero_grad(set_to_none=True)
                    try:
                        # Shapes and supports are the same in every step, and each check of a value is a device sync.
                        with pyro.validation_enabled(validate and state.step == 0), declare_missing(missing):
                            loss = loss_module(x, labels)
                    except ValueError:
                        # Pyro's validation refuses parameters that are NaN; without it the loss shows where they come from.
                        with torch.no_grad(), pyro.validation_enabled(False):
                            monitor.record(loss_module(x, labels), len(x), model, guide, x, labels)
                            monitor.check(model, guide, x, labels)
                        raise
                    monitor.record(loss, len(x), model, guide, x, labels)
                    loss.backward()
                    optim.step()
                    state.step += 1
                    bar.set_postfix_str(monitor.status(), refresh=False)
                    bar.update()
                state.history.rows.append(monitor.finish_epoch(optim.param_groups[0]["lr"]))
                for listener in (*(term for term in terms if hasattr(term, "on_epoch_end")), *callbacks):
                    listener.on_epoch_end(state)
        except (KeyboardInterrupt, NonFiniteLossError):
            state.interrupted = True
            for callback in callbacks:
                callback.on_interrupt(state)
            raise
        finally:
            bar.close()
            for module in modules:
                module.eval()
            if isinstance(objective, CausalELBO):
                objective.progress = 1.0
    return state.history


def _groups(modules: Iterable[nn.Module], parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
    """Adam's parameter groups, one for each ``lr_factor``; of nested modules that have one, the innermost counts."""
    factor: dict[nn.Parameter, float] = {}
    for module in chain.from_iterable(m.modules() for m in modules):
        # In the module's own dictionaries: a look at a PyroModule's attribute is a Pyro statement.
        own = vars(module).get("lr_factor", getattr(type(module), "lr_factor", None))
        if own is not None:
            factor.update(dict.fromkeys(module.parameters(), float(own)))
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factor.get(parameter, 1.0), []).append(parameter)
    # The gradients of parts that run ahead fall by orders of magnitude within an epoch; Adam's usual memory of 1,000 steps
    # would hold them back for as long.
    return [{"params": group, "lr": lr * size, "betas": (0.9, 0.999 if size == 1.0 else 0.99)} for size, group in groups.items()]


class _Monitor:
    """Keeps each step's loss terms on the device and looks at them only now and then: a look is a device sync."""

    def __init__(self, objective: ELBO, state: TrainingState, check_every: int) -> None:
        self.objective, self.state, self.check_every = objective, state, check_every
        self.started = time.perf_counter()

    def start_epoch(self) -> None:
        self.names: list[str] = []
        self.pending: list[Tensor] = []
        self.sums: Tensor | None = None
        self.images = self.seen = 0
        self.epoch_started = time.perf_counter()

    def record(self, loss: Tensor, size: int, *context: Any) -> None:
        terms = {"loss": loss.detach(), **getattr(self.objective, "last_terms", {})}
        if not self.pending:
            self.first_step = self.state.step + 1
        self.names = list(terms)
        self.pending.append(torch.stack(list(terms.values())))
        self.images += size
        if len(self.pending) >= self.check_every:
            self.check(*context)

    def status(self) -> str:
        """Mean loss per image over the epoch as far as it has been looked at, and the speed."""
        speed = self.images / (time.perf_counter() - self.epoch_started)
        loss = "" if self.sums is None else f"loss {self.sums[0].item() / self.seen:.1f}, "
        return f"{loss}{speed:.0f} img/s"

    def finish_epoch(self, lr: float) -> dict[str, float]:
        self.check()
        seconds = time.perf_counter() - self.epoch_started
        assert self.sums is not None
        row: dict[str, float] = {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "seconds": round(time.perf_counter() - self.started, 3),
            "images_per_second": round(self.images / seconds, 1),
            "lr": lr,
        }
        return row | dict(zip(self.names, (self.sums / self.images).tolist(), strict=True))

    def check(self, *context: Any) -> None:
        """Looks at the steps recorded since the last look; ``context`` (model, guide, batch) helps to name the culprit."""
        if not self.pending:
            return
        values = torch.stack(self.pending).cpu().double()
        self.pending = []
        bad = ~torch.isfinite(values)
        if bad.any():
            first = int(bad.any(1).nonzero()[0])
            step = self.first_step + first
            # The loss itself comes first among the names: prefer the term behind it.
            names = [name for name, wrong in zip(self.names, bad[first].tolist(), strict=True) if wrong]
            culprit = names[1:] or self._sites(*context) or names
            value = values[first, self.names.index(names[-1])].item()
            raise NonFiniteLossError(
                f"loss: the term {' and '.join(map(repr, culprit))} became {value} in step {step} (epoch {self.state.epoch}); "
                "a lower lr, a larger scale of the likelihood or larger standard deviations of the prior may help"
            )
        self.sums = values.sum(0) if self.sums is None else self.sums + values.sum(0)
        self.seen = self.images

    @staticmethod
    def _sites(*context: Any) -> list[str]:
        # Objectives without named terms: look for the site whose log-probability is at fault.
        if not context:
            return []
        model, guide, x, labels = context
        with torch.no_grad(), pyro.validation_enabled(False):
            guide_trace = poutine.trace(guide).get_trace(x, labels)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, labels)
            sites = []
            for trace, kind in ((guide_trace, "guide"), (model_trace, "model")):
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if site["type"] == "sample" and not torch.isfinite(site["log_prob"]).all():
                        sites.append(f"{kind} site {name}")
        return sites
