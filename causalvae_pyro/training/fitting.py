"""``fit``: its arguments, checked and put together."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.terms import LabelFit
from causalvae_pyro.scm.pairing import check_pair
from causalvae_pyro.training.batches import LoaderBatches, TensorBatches, make_batches
from causalvae_pyro.training.callbacks import Callback, TrainingState
from causalvae_pyro.training.devices import networks_of, prepare_networks, reproducible, training_accelerator
from causalvae_pyro.training.ema import MovingAverage
from causalvae_pyro.training.history import History
from causalvae_pyro.training.loop import Loop
from causalvae_pyro.training.objective import Objective
from causalvae_pyro.training.optimizers import parameter_groups
from causalvae_pyro.training.resuming import TrainingCheckpoint
from causalvae_pyro.training.schedules import cosine_schedule
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.images import pixels_of
from causalvae_pyro.utils.label_columns import check_categories, label_names
from causalvae_pyro.utils.local_params import local_params

__all__ = ["fit"]


@torch.inference_mode(False)
def fit(
    model: nn.Module,
    guide: nn.Module,
    data: Dataset | tuple[Tensor, Tensor | None],
    *,
    validation: Dataset | tuple[Tensor, Tensor | None] | None = None,
    objective: ELBO | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 2e-3,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    schedule: Callable[[float], float] | None = cosine_schedule,
    max_grad_norm: float | None = None,
    ema_decay: float | None = None,
    device: str | torch.device = "auto",
    mixed_precision: str | None = None,
    micro_batches: int = 1,
    compiled: bool = False,
    deterministic: bool = False,
    accelerator: Any = None,
    seed: int = 0,
    labelled_repeats: int = 1,
    groups: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike | TrainingCheckpoint | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Maximises a bound by stochastic variational inference.

    The pair becomes one ELBO module (``objective(model, guide)``) that a torch optimiser trains; for one seed, one order
    of the data and one learning rate this takes the same steps as :class:`pyro.infer.SVI`. Model and guide are trained
    in place and left on the device in evaluation mode, also under ``torch.no_grad()`` or ``torch.inference_mode()``.

    Started by ``accelerate launch`` or ``torchrun``, several processes share each batch. Their gradient is that of the whole
    batch, whatever their number; only terms of a whole batch, and batch normalisation, see each process's part.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`, or any Pyro model module ``(x, labels)``.
        guide: Its guide, a module with the same signature.
        data: An image simulator (anything with ``images [N, C, H, W]`` and ``labels [N, n]``), a pair of tensors
            ``(images, labels)`` (``labels`` may be ``None``), or a dataset of ``(image, labels)`` pairs with a length. Images are
            uint8 or in [0, 1]. Tensors stay on the device as they are. A missing label is NaN: an image
            may have none of its labels, or some of them.
        validation: Images held out, in any of these forms. After each epoch the history gets their loss and its terms, as
            ``validation_loss`` and so on: in evaluation mode, with the weights that the callbacks see and the same random numbers
            each time. The training takes the same steps as without them. :class:`~causalvae_pyro.training.EarlyStopping`
            then watches their loss.
        objective: Any Pyro ELBO. By default :class:`~causalvae_pyro.CausalELBO` with weights (0, 1) and
            :class:`~causalvae_pyro.objectives.LabelFit`: a bound on ``log p(x, u)``. Terms that are modules are trained too, and
            told of every epoch's end where they have ``on_epoch_end``.
        epochs: Passes over the data.
        batch_size: Images per step, over all processes and micro-batches; the last batch of an epoch may be smaller. Where it
            has fewer images than there are processes it is left out.
        lr: Learning rate of the default optimiser, Adam. A module with an attribute ``lr_factor`` gets so many times that.
        optimizer: From parameters to an optimiser, instead of Adam.
        schedule: Factor of the learning rate as a function of progress in [0, 1]; ``None`` keeps it constant.
        max_grad_norm: Largest norm of the gradient, of the whole batch, that is not scaled down to it; > 0.
        ema_decay: Keeps an exponential moving average of the weights with this decay, in (0, 1). After each epoch the callbacks
            see it in place of the weights, and in the end the pair has it, each time with the statistics of batch normalisation
            that belong to it: a pass over the images finds them.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        mixed_precision: ``"fp16"`` or ``"bf16"`` for encoders and decoder, if the device has it; densities and mechanisms stay in
            full precision. By default what ``accelerate launch`` was told, or ``"no"``.
        micro_batches: In so many parts a batch goes through the networks, for less memory; the gradient is that of the whole.
        compiled: Compile encoders and decoder with ``torch.compile``.
        deterministic: Use deterministic algorithms only; an operation that has none on the device raises an error.
        accelerator: An :class:`accelerate.Accelerator` of your own, in place of ``device`` and ``mixed_precision``.
        seed: Seeds the order of the data and the sampling.
        labelled_repeats: Where labels are missing, how often an epoch shows each image that has some: so many times it counts
            in the objective. With few labels most batches would have none. Tensors and simulators only.
        groups: The group of each image, whole numbers ``[N]``: the person, patient or scene. Consecutive rows of each batch are
            then images of one group, so many as the objective's terms say in an attribute ``group_size``
            (:class:`~causalvae_pyro.objectives.GroupSwap`), else 2. Images left over in a group are not shown in an epoch, others
            in each. Tensors and simulators only.
        callbacks: See :class:`Callback`.
        checkpoint: A directory in which the state of the training is kept, or a :class:`TrainingCheckpoint`; without ``resume``
            what is there is removed. Ctrl-C then ends the training after the step that it is in, with its state written (of
            several processes, after the next tenth step).
        resume: Go on from that state, exactly: what comes out is what would have come out without the stop, to the bit, where the
            device computes the same twice (a CPU does; a GPU with ``deterministic``). Where there is none, start.
        progress: Show a progress bar with loss, images/s and the time left.

    Returns:
        The history, one row per epoch.

    Raises:
        ValueError: If an argument is out of range, the guide maps through another model's causal layer, images or labels are
            malformed, model or guide were made under ``torch.inference_mode()``, or the state to go on from is damaged or that of
            another training, or another training is writing to the directory at this moment.
        NonFiniteLossError: If a term of the loss or a parameter becomes NaN or infinite.
        KeyboardInterrupt: On Ctrl-C, after the callbacks' ``on_interrupt``.
    """
    for argument, module in (("model", model), ("guide", guide)):
        if not isinstance(module, nn.Module):
            # Its parameters would stay as they are without a word.
            raise ValueError(
                f"{argument}: expected a module, got {type(module).__name__}; train plain functions with pyro.infer.SVI"
            )
        if any(tensor.is_inference() for tensor in (*module.parameters(), *module.buffers())):
            raise ValueError(f"{argument}: got one made under torch.inference_mode(), which cannot be trained; make it outside")
    check_pair(model, guide)
    counts = {"epochs": epochs, "batch_size": batch_size, "labelled_repeats": labelled_repeats, "micro_batches": micro_batches}
    for argument, count in counts.items():
        check_count(argument, count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}; must lie in [0, 2**32)")
    if not 0 < lr <= sys.float_info.max:
        raise ValueError(f"lr: got {lr}; must be > 0 and finite")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm: got {max_grad_norm}; must be > 0")
    if resume and checkpoint is None:
        raise ValueError("resume: got True without a checkpoint; give the directory that the state lies in")
    objective = CausalELBO(terms=[LabelFit()]) if objective is None else objective
    group_size = _group_size(objective, groups, validation)
    with ExitStack() as stack:
        if accelerator is None:
            accelerator = stack.enter_context(training_accelerator(device, mixed_precision))
        place, processes = accelerator.device, accelerator.num_processes
        names = label_names(model)
        batches = make_batches(
            data,
            batch_size,
            labelled_repeats,
            place,
            names,
            (accelerator.process_index, processes),
            pixels_of(model),
            groups,
            group_size,
        )
        held = None
        if validation is not None:
            held = _held_out(validation, batch_size, place, names, (accelerator.process_index, processes), pixels_of(model))
        for argument, given in (("", batches), ("validation: ", held)):
            if isinstance(given, TensorBatches):
                try:
                    check_categories(model, given.labels)
                except ValueError as error:
                    raise ValueError(f"{argument}{error}") from None
        for argument, given in (("labels", batches), ("validation: labels", held)):
            if isinstance(given, TensorBatches) and given.missing and any(getattr(m, "label_dim", 0) for m in guide.modules()):
                cure = "but the guide's encoder reads them; give it label_dim=0, for q(eps | x)"
                raise ValueError(f"{argument}: some are missing, {cure}")
        # Each process has its own random numbers; the order of the data is the same for all.
        pyro.set_rng_seed((seed + accelerator.process_index) % 2**32)
        # Handlers that are around fit may want to hear of parameters.
        stack.enter_context(local_params(model, guide, quiet=not am_i_wrapped()))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(reproducible(deterministic))
        networks = networks_of(model, guide, getattr(objective, "terms", ()))
        stack.enter_context(prepare_networks(networks, accelerator, compiled))
        # The monitor says more about them.
        warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
        loss = Objective(objective, model, guide).to(place).train()
        parameters = [p for p in dict.fromkeys(loss.parameters()) if p.requires_grad]
        adam = torch.optim.Adam(parameter_groups(loss.roots, parameters, lr), fused=True) if optimizer is None else None
        optim = optimizer(parameters) if optimizer is not None else adam
        state = TrainingState(model, guide, optim, History())  # type: ignore[arg-type]
        average = None if ema_decay is None else MovingAverage(parameters, ema_decay)
        keep = TrainingCheckpoint(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
        own = {} if keep is None else keep.settings
        settings = {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "images": batches.count,
            "data": batches.digest(),
            "validation": None if held is None else [held.count, held.digest()],
            "device": place.type,
            "mixed_precision": accelerator.mixed_precision,
            "labelled_repeats": labelled_repeats,
            **({} if groups is None else {"group_size": group_size}),
            "micro_batches": micro_batches,
            "max_grad_norm": max_grad_norm,
            "ema_decay": ema_decay,
            "processes": processes,
            "parameters": sum(p.numel() for p in parameters),
            "own": own,
        }
        return Loop(
            loss=loss,
            state=state,
            batches=batches,
            validation=held,
            settings=settings,
            accelerator=accelerator,
            schedule=schedule,
            average=average,
            callbacks=callbacks,
            checkpoint=keep,
            progress=progress,
        ).run(resume)


def _group_size(objective: Any, groups: Any, validation: Any) -> int:
    """Images of a group in consecutive rows."""
    terms = {type(term).__name__: term.group_size for term in getattr(objective, "terms", ()) if hasattr(term, "group_size")}
    if groups is None:
        if terms:
            # Random rows are of different groups, which the term would take for one.
            raise ValueError(f"groups: got None; the objective's {next(iter(terms))} takes the group of each image, [N]")
        return 2
    if validation is not None:
        raise ValueError("validation: its images have no groups; with groups it must be None")
    if len(set(terms.values())) > 1:
        raise ValueError(f"objective: its terms have different group_size: {terms}; they must be equal")
    return next(iter(terms.values()), 2)


def _held_out(
    validation: Any,
    batch_size: int,
    device: torch.device,
    names: Sequence[str] | None,
    part: tuple[int, int],
    pixels: bool | None,
) -> TensorBatches | LoaderBatches:
    """Batches of the images held out, of which there may be fewer than a batch has."""
    try:
        images = validation[0] if isinstance(validation, tuple) and validation else validation
        size = len(images) if hasattr(images, "__len__") else batch_size
        if not size:
            raise ValueError("got no images")
        return make_batches(validation, min(batch_size, max(size, 1)), 1, device, names, part, pixels)
    except ValueError as error:
        raise ValueError(f"validation: {error}") from None
