"""Callbacks: they observe a training run and may stop it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from causalvae_pyro.training.history import History

__all__ = ["CSVLogger", "Callback", "EarlyStopping", "TensorBoardLogger", "TrainingState"]


@dataclass
class TrainingState:
    """What a callback sees: the objects in training and the progress so far.

    Attributes:
        model: The model; with an average of the weights (``ema_decay``), after each epoch and in the end that average.
        guide: Its guide, likewise.
        optimizer: The optimiser.
        history: One row per epoch that is over.
        epoch: The epoch, from 1 on.
        step: Steps taken.
        interrupted: Whether the training ends before its time.
        stop: Set it to end the training after this epoch.
    """

    model: nn.Module
    guide: nn.Module
    optimizer: Optimizer
    history: History
    epoch: int = 0
    step: int = 0
    interrupted: bool = False
    stop: bool = False


class Callback:
    """Base class of callbacks; override what is needed.

    With several processes only the main one calls them.
    """

    def on_step_end(self, state: TrainingState) -> None:
        """Called after every step. Reading a tensor's value here makes a GPU wait."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Called after every epoch."""

    def on_interrupt(self, state: TrainingState) -> None:
        """Called when Ctrl-C or a non-finite loss ends the training early, before the exception propagates."""

    def state_dict(self) -> Mapping[str, Any]:
        """What the callback needs to go on after a resumption: numbers, strings, tensors, lists and dictionaries of these."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` returned."""


class EarlyStopping(Callback):
    """Ends the training when a column of the history has not improved for a while.

    Args:
        column: The column, lower is better; by default ``validation_loss`` where there are images held out, else ``loss``.
        patience: Epochs without an improvement that are tolerated, at least 1.
        min_delta: Smallest change that counts as one, >= 0.
    """

    def __init__(self, column: str | None = None, *, patience: int = 3, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience: got {patience}; must be at least 1")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"min_delta: got {min_delta}; must be >= 0 and finite")
        self.column, self.patience, self.min_delta = column, patience, min_delta
        self.best, self.waited = math.inf, 0

    def on_epoch_end(self, state: TrainingState) -> None:
        row = state.history.rows[-1]
        column = self.column or ("validation_loss" if "validation_loss" in row else "loss")
        if column not in row:
            raise ValueError(f"column: got {column!r}; the history has {list(row)}")
        if row[column] < self.best - self.min_delta:
            self.best, self.waited = row[column], 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                state.stop = True

    def state_dict(self) -> Mapping[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class CSVLogger(Callback):
    """Writes the history after every epoch, the whole file anew and atomically.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def on_epoch_end(self, state: TrainingState) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state.history.to_csv(self.path)


class TensorBoardLogger(Callback):
    """Writes the history's columns for TensorBoard (``pip install -e ".[tensorboard]"``).

    A resumed run continues in the same directory; the plots omit what was written after the state that it resumes from.

    Args:
        path: The directory.

    Raises:
        ModuleNotFoundError: If TensorBoard is not installed.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise ModuleNotFoundError("TensorBoardLogger needs tensorboard; pip install tensorboard") from None
        self._make, self.path = SummaryWriter, Path(path)
        self._writer: Any = None

    def on_epoch_end(self, state: TrainingState) -> None:
        row = state.history.rows[-1]
        if self._writer is None:
            # From here on: nothing before the first epoch of this process is touched.
            self._writer = self._make(str(self.path), purge_step=int(row["step"]))
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()
