"""Loss terms during training, and the error message for a non-finite one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from causalvae_pyro.training.callbacks import TrainingState

__all__ = ["Monitor", "NonFiniteLossError", "non_finite", "shortened"]


class NonFiniteLossError(FloatingPointError):
    """A term of the loss or a parameter became NaN or infinite; the message names it, and the step."""


def non_finite(**modules: nn.Module) -> list[str]:
    """Names of the parameters in which there is a NaN or an infinity."""
    named = ((f"{prefix}.{name}", p) for prefix, module in modules.items() for name, p in module.named_parameters())
    return [name for name, parameter in named if not bool(torch.isfinite(parameter).all())]


def shortened(names: list[str]) -> str:
    """The first of some parameters, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the parameter {names[0]!r}{more}"


class Monitor:
    """Keeps each step's loss terms on the device and transfers them rarely, since each transfer is a device sync.

    Args:
        objective: The objective, whose ``last_terms`` are kept where it has them.
        state: The training's.
        check_every: Steps between two looks.
        total: Sums a tensor over all processes; for the epoch's means.
    """

    def __init__(
        self, objective: ELBO, state: TrainingState, check_every: int, total: Callable[[Tensor], Tensor] = lambda t: t
    ) -> None:
        self.objective, self.state, self.check_every, self.total = objective, state, check_every, total
        self.started = time.perf_counter()
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forgets the last epoch."""
        self.names: list[str] = []
        self.pending: list[Tensor] = []
        self.sums: Tensor | None = None
        self.steps: list[int] = []
        self.images = self.seen = 0
        self.epoch_started = time.perf_counter()

    def record(self, loss: Tensor, size: int, *context: Any) -> None:
        """Keeps the terms of a batch of so many images; ``context`` as for :meth:`check`."""
        terms = {"loss": loss.detach(), **getattr(self.objective, "last_terms", {})}
        self.names = list(terms)
        self.steps.append(self.state.step + 1)
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
        """The epoch's row of the history."""
        self.check()
        seconds = time.perf_counter() - self.epoch_started
        assert self.sums is not None
        images = self.total(self.sums.new_tensor([self.images])).item()
        row: dict[str, float] = {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "seconds": round(time.perf_counter() - self.started, 3),
            "images_per_second": round(images / seconds, 1),
            "lr": lr,
        }
        return row | dict(zip(self.names, (self.total(self.sums) / images).tolist(), strict=True))

    def check(self, *context: Any) -> None:
        """Looks at the steps recorded since the last look; ``context`` (model, guide, batch) helps to name the culprit."""
        if not self.pending:
            return
        values = torch.stack(self.pending).cpu().double()
        steps, self.pending, self.steps = self.steps, [], []
        bad = ~torch.isfinite(values)
        if bad.any():
            first = int(bad.any(1).nonzero()[0])
            # The loss itself comes first among the names: prefer the term behind it.
            names = [name for name, wrong in zip(self.names, bad[first].tolist(), strict=True) if wrong]
            culprit = names[1:] or self._sites(*context) or names
            value = values[first, self.names.index(names[-1])].item()
            where = f"step {steps[first]} (epoch {self.state.epoch})"
            # Known where the step's own update has not been made yet.
            spoilt = non_finite(model=self.state.model, guide=self.state.guide) if context and first == len(steps) - 1 else []
            cause = f", in which {shortened(spoilt)} had become so" if spoilt else ""
            raise NonFiniteLossError(
                f"loss: the term {' and '.join(map(repr, culprit))} became {value} in {where}{cause}; "
                "a lower lr, a larger scale of the likelihood or larger standard deviations of the prior may help"
            )
        self.sums = values.sum(0) if self.sums is None else self.sums + values.sum(0)
        self.seen = self.images

    def state_dict(self) -> dict[str, Any]:
        """The epoch so far. Nothing is summed for it: in another order sums of floats are other sums."""
        now = time.perf_counter()
        pending = torch.stack(self.pending).cpu() if self.pending else None
        return {
            "names": self.names,
            "pending": pending,
            "sums": self.sums,
            "images": self.images,
            "seen": self.seen,
            "steps": self.steps,
            "seconds": [now - self.started, now - self.epoch_started],
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes up what :meth:`state_dict` returned."""
        pending = state["pending"]
        self.pending = [] if pending is None else list(pending.to(device))
        self.names, self.sums = state["names"], state["sums"]
        self.images, self.seen, self.steps = state["images"], state["seen"], state["steps"]
        self.started, self.epoch_started = (time.perf_counter() - seconds for seconds in state["seconds"])

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
