"""What is kept of a training run: the state of its loop as a mapping, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from causalvae_pyro.utils.random_state import rng_state, set_rng_state

if TYPE_CHECKING:
    from causalvae_pyro.training.loop import Loop

__all__ = ["check_settings", "loop_state", "restore_loop"]


def loop_state(loop: Loop, finished: bool) -> dict[str, Any] | None:
    """What :func:`restore_loop` needs, as :class:`~causalvae_pyro.training.TrainingCheckpoint` writes it.

    Args:
        loop: The loop, after a step. Every process has to call this.
        finished: Whether the training is over.

    Returns:
        The state, on the main process; ``None`` on others.
    """
    accelerator = loop.accelerator
    # What differs between processes: their random numbers, and the sums over their parts of the batches.
    own = {"random": rng_state(accelerator.device), "monitor": loop.monitor.state_dict()}
    processes = [own]
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        processes = gather_object([own])
    if not accelerator.is_main_process:
        return None
    return {
        "settings": loop.settings,
        "finished": finished,
        "loss": loop.loss.state_dict(),
        "optimizer": loop.state.optimizer.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        "average": None if loop.average is None else loop.average.state_dict(),
        "processes": processes,
        "order": loop.order_at_start,
        "done": loop.done,
        "epoch": loop.state.epoch,
        "step": loop.state.step,
        "stop": loop.state.stop,
        "history": loop.state.history.rows,
        "callbacks": [[type(callback).__name__, callback.state_dict()] for callback in loop.callbacks],
    }


def check_settings(file: Any, kept: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuses the state of another training run.

    Args:
        file: Where the state was read, for the error.
        kept: The state.
        settings: Those of this run.

    Raises:
        ValueError: If a setting is another one.
    """
    for name, value in settings.items():
        found = kept.get("settings", {}).get(name)
        if found != value:
            what = "other data" if name == "data" else f"{name} = {found}, this one has {value}"
            raise ValueError(f"resume: {file} belongs to a training run with {what}; use the same, or train without resume")


def restore_loop(loop: Loop, kept: Mapping[str, Any]) -> None:
    """Puts a loop into the state that :func:`loop_state` has returned; random numbers too.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError, IndexError: If the state does not fit.
    """
    state, device = loop.state, loop.accelerator.device
    loop.loss.load_state_dict(kept["loss"])
    state.optimizer.load_state_dict(kept["optimizer"])
    if loop.accelerator.scaler is not None:
        loop.accelerator.scaler.load_state_dict(kept["scaler"])
    if loop.average is not None:
        loop.average.load_state_dict(kept["average"])
    loop.done, state.epoch, state.step, state.stop = (kept[key] for key in ("done", "epoch", "step", "stop"))
    state.history.rows[:] = kept["history"]
    loop.order.set_state(kept["order"])
    loop.order_at_start = kept["order"]
    own = kept["processes"][loop.accelerator.process_index]
    loop.monitor.load_state_dict(own["monitor"], device)
    _restore_callbacks(loop, kept["callbacks"])
    # Last, since the lines above may use random numbers.
    set_rng_state(own["random"], device)


def _restore_callbacks(loop: Loop, kept: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Gives what each remembered to the next of its class."""
    callbacks = list(loop.callbacks)
    for name, own in kept:
        match = next((callback for callback in callbacks if type(callback).__name__ == name), None)
        if match is not None:
            callbacks.remove(match)
            match.load_state_dict(own)
        elif own and loop.accelerator.is_main_process:
            raise ValueError(f"it had the callback {name}, which remembered {list(own)}, and this one has not")
