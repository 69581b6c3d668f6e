"""The steps of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.training.batches import LoaderBatches, TensorBatches, parts_of
from causalvae_pyro.training.callbacks import Callback, TrainingState
from causalvae_pyro.training.ema import MovingAverage
from causalvae_pyro.training.history import History
from causalvae_pyro.training.interrupts import CtrlC
from causalvae_pyro.training.loop_state import check_settings, loop_state, restore_loop
from causalvae_pyro.training.monitor import Monitor, NonFiniteLossError, non_finite, shortened
from causalvae_pyro.training.objective import Objective
from causalvae_pyro.training.resuming import TrainingCheckpoint
from causalvae_pyro.training.statistics import BatchStatistics
from causalvae_pyro.training.untrained import LayerWatch
from causalvae_pyro.training.validation import Validation
from causalvae_pyro.utils.images import pixels_of, scale_observations
from causalvae_pyro.utils.missing_labels import declare_missing
from causalvae_pyro.utils.progress import Progress
from causalvae_pyro.utils.pyro_lock import one_at_a_time

__all__ = ["Loop"]


class Loop:
    """One call of :func:`~causalvae_pyro.fit`.

    Args:
        loss: The loss.
        state: What callbacks see, with the optimiser.
        batches: The data.
        validation: Of images held out, or ``None``.
        settings: What makes this training this one; a state of another is refused.
        accelerator: Device, processes and precision.
        schedule: See :func:`~causalvae_pyro.fit`.
        average: Of the weights, or ``None``.
        callbacks: See :func:`~causalvae_pyro.fit`.
        checkpoint: See :func:`~causalvae_pyro.fit`.
        progress: See :func:`~causalvae_pyro.fit`.
    """

    def __init__(
        self,
        *,
        loss: Objective,
        state: TrainingState,
        batches: TensorBatches | LoaderBatches,
        validation: TensorBatches | LoaderBatches | None,
        settings: Mapping[str, Any],
        accelerator: Any,
        schedule: Callable[[float], float] | None,
        average: MovingAverage | None,
        callbacks: Sequence[Callback],
        checkpoint: TrainingCheckpoint | None,
        progress: bool,
    ) -> None:
        self.loss, self.state, self.batches, self.settings = loss, state, batches, dict(settings)
        self.accelerator, self.schedule, self.average, self.checkpoint = accelerator, schedule, average, checkpoint
        self.statistics = BatchStatistics(state.model, state.guide, batches, settings["micro_batches"], accelerator.device)
        self.watched = bool(callbacks) or validation is not None
        # The main process speaks for all.
        self.callbacks = list(callbacks) if accelerator.is_main_process else []
        #: One process in full precision needs nothing of accelerate's in its steps, and its checks take their time.
        self.plain = accelerator.scaler is None and str(accelerator.distributed_type.value) == "NO"
        self.optimizer = state.optimizer
        if not self.plain:
            self.optimizer = accelerator.prepare_optimizer(state.optimizer, device_placement=False)
        self.rates = [group["lr"] for group in state.optimizer.param_groups]
        self.parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        several = accelerator.num_processes > 1
        device = accelerator.device
        self.wrapped: nn.Module = loss
        if several:
            # Terms of the loss, and with them parameters, may start and stop during training.
            self.wrapped = DistributedDataParallel(
                loss, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
            )

        def total(value: Tensor) -> Tensor:
            return accelerator.reduce(value.to(device, torch.float32)).to(value) if several else value

        self.monitor = Monitor(loss.objective, state, check_every=1 if device.type == "cpu" else 50, total=total)
        self.pixels = pixels_of(state.model)
        self.validation: Validation | None = None
        if validation is not None:
            seed = (settings["seed"] + accelerator.process_index) % 2**32
            options = {"pixels": self.pixels, "parts": settings["micro_batches"], "seed": seed}
            self.validation = Validation(loss, validation, **options, device=device, total=total)
        self.order = torch.Generator().manual_seed(self.settings["seed"])
        self.total = self.settings["epochs"] * len(batches)
        self.progress = progress and accelerator.is_main_process
        # Places in the data: the batches of this epoch that are done, and the generator as it was when the epoch began.
        self.done, self.order_at_start = 0, self.order.get_state()
        self.first_step, self.ctrl_c = 0, CtrlC()
        self.layer = LayerWatch(state.model)

    def run(self, resume: bool) -> History:
        """Trains, from the start or from the state that was kept, with no other training in the same place."""
        # Only the main process writes, so only it takes the lock.
        mine = self.checkpoint is not None and self.accelerator.is_main_process
        with self.checkpoint.lock() if mine else nullcontext():  # type: ignore[union-attr]
            return self._run(resume)

    def _run(self, resume: bool) -> History:
        state, loss = self.state, self.loss
        if self.validation is not None:
            self.validation.check()
        finished = resume and self._resume()
        if not resume and self.checkpoint is not None and self.accelerator.is_main_process:
            # The file there belongs to another training run.
            self.checkpoint.remove()
        bar = Progress(self.total, "training", initial=state.step, every=len(self.batches), show=self.progress)
        try:
            # With a state to be kept Ctrl-C waits for the end of the step; a second one does not.
            with self.ctrl_c.deferred() if self.checkpoint is not None else nullcontext():
                while not finished and state.epoch - (self.done > 0) < self.settings["epochs"] and not state.stop:
                    self._epoch(bar)
        except (KeyboardInterrupt, NonFiniteLossError) as error:
            state.interrupted = True
            with self._averaged(statistics=isinstance(error, KeyboardInterrupt)):
                for callback in self.callbacks:
                    callback.on_interrupt(state)
            raise
        finally:
            bar.close()
            for module in loss.roots:
                module.eval()
            if isinstance(loss.objective, CausalELBO):
                loss.objective.progress = 1.0
        if not finished:
            self._keep(finished=True)
        if self.average is not None:
            self.average.copy_to_weights()
            self.statistics.recompute()
        if self.accelerator.num_processes > 1:
            # Running means are the main process's, as they are in its file.
            for buffer in loss.buffers():
                torch.distributed.broadcast(buffer, 0)
        if self.ctrl_c.pressed:
            # Pressed after the last step: the training is over, but the user wants to stop.
            raise KeyboardInterrupt
        return state.history

    def _epoch(self, bar: Progress) -> None:
        state, monitor = self.state, self.monitor
        if not self.done:
            state.epoch += 1
            monitor.start_epoch()
            self.order_at_start = self.order.get_state()
        bar.describe(f"epoch {state.epoch}/{self.settings['epochs']}")
        for x, labels, missing in self.batches(self.order, self.done):
            self._step(x, labels, missing)
            self.done += 1
            bar.update(note=monitor.status())
            for callback in self.callbacks:
                callback.on_step_end(state)
            stop = self._is_to_stop()
            if stop or (self.checkpoint is not None and state.step % self.checkpoint.every == 0):
                self._keep()
            if stop:
                raise KeyboardInterrupt
        self.done = 0
        state.history.rows.append(monitor.finish_epoch(state.optimizer.param_groups[0]["lr"]))
        for term in self.loss.terms:
            if hasattr(term, "on_epoch_end"):
                term.on_epoch_end(state)
        self._check_parameters()
        self.layer.check()
        with self._averaged():
            if self.validation is not None:
                state.history.rows[-1] |= self.validation.columns()
            for callback in self.callbacks:
                callback.on_epoch_end(state)
        if self.accelerator.num_processes > 1:
            state.stop = self._any(state.stop)
        self.order_at_start = self.order.get_state()
        self._keep()

    def _check_parameters(self) -> None:
        """An infinite weight need not show in the loss; it must not replace the last good state."""
        if all(bool(torch.isfinite(p).all()) for p in self.parameters):
            return
        spoilt = non_finite(model=self.state.model, guide=self.state.guide, terms=self.loss.learning)
        raise NonFiniteLossError(
            f"parameters: {shortened(spoilt)} became NaN or infinite by step {self.state.step} (epoch {self.state.epoch}); "
            "a lower lr or max_grad_norm may help"
        )

    def _is_to_stop(self) -> bool:
        """Whether Ctrl-C has been pressed; several processes have to agree on the step."""
        if self.accelerator.num_processes == 1 or self.checkpoint is None:
            return self.ctrl_c.pressed
        return self.state.step % 10 == 0 and self._any(self.ctrl_c.pressed)

    def _any(self, flag: bool) -> bool:
        """Whether it is so for any process."""
        return bool(self.accelerator.reduce(torch.tensor([float(flag)], device=self.accelerator.device)).item())

    @one_at_a_time
    def _step(self, x: Tensor, labels: Tensor | None, missing: bool) -> None:
        state, accelerator = self.state, self.accelerator
        done = state.step / max(1, self.total - 1)
        if isinstance(self.loss.objective, CausalELBO):
            self.loss.objective.progress = done
        if self.schedule is not None:
            factor = float(self.schedule(done))
            for group, rate in zip(state.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        pieces = parts_of(x, labels, self.settings["micro_batches"], self.batches.size)
        for i, (images, known) in enumerate(pieces):
            # Gradients are exchanged with the last part only.
            with accelerator.no_sync(self.wrapped) if i + 1 < len(pieces) else nullcontext():
                value = self._loss(scale_observations(images, self.pixels, dtype=torch.get_default_dtype()), known, missing)
                # Processes average their gradients, and accelerate those of steps that it is told to accumulate; the loss is a
                # sum over images.
                if self.plain:
                    value.backward()
                else:
                    accelerator.backward(value * (accelerator.num_processes * accelerator.gradient_accumulation_steps))
        if self.settings["max_grad_norm"] is not None:
            accelerator.clip_grad_norm_(self.parameters, self.settings["max_grad_norm"])
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        state.step += 1

    def _loss(self, x: Tensor, labels: Tensor | None, missing: bool) -> Tensor:
        context = x, labels
        try:
            # Shapes and supports are the same in every step, and each check of a value is a device sync.
            validate = is_validation_enabled() and self.state.step == self.first_step
            with pyro.validation_enabled(validate), declare_missing(missing):
                value = self.wrapped(*context)
        except ValueError:
            # Pyro's validation refuses parameters that are NaN; without it the loss shows where they come from.
            with torch.no_grad(), pyro.validation_enabled(False):
                self._record(self.loss(*context), x, labels)
                self.monitor.check(self.state.model, self.state.guide, x, labels)
            raise
        self._record(value, x, labels)
        return value

    def _record(self, value: Tensor, x: Tensor, labels: Tensor | None) -> None:
        self.monitor.record(value, len(x), self.state.model, self.state.guide, x, labels)

    @contextmanager
    def _averaged(self, statistics: bool = True) -> Iterator[None]:
        """For callbacks, the averaged weights in place of the last ones, with statistics of batch normalisation that fit."""
        if self.average is None or not self.average.updates:
            yield
            return
        with self.average.applied(), self.statistics.recomputed() if self.watched and statistics else nullcontext():
            yield

    def _keep(self, finished: bool = False) -> None:
        if self.checkpoint is None:
            return
        self._check_parameters()
        kept = loop_state(self, finished)
        if kept is not None:
            self.checkpoint.write(kept)

    def _resume(self) -> bool:
        """Takes up the state that was kept, if there is one, and returns whether that training was over."""
        assert self.checkpoint is not None
        kept = self.checkpoint.read()
        if kept is None:
            return False
        check_settings(self.checkpoint.file, kept, self.settings)
        try:
            restore_loop(self, kept)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"resume: {self.checkpoint.file} does not fit this training ({reason})") from None
        self.first_step = self.state.step
        return bool(kept["finished"])
