"""``causalvae train``: trains on a simulator or on a folder of images, scores the result and writes the report."""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

import causalvae_pyro
from causalvae_pyro.checkpoints.runs import WEIGHTS, Run, SaveCheckpoint, load, save
from causalvae_pyro.cli.arguments import PRESETS, QUICK
from causalvae_pyro.cli.data import describe
from causalvae_pyro.cli.recipe import choose, schedule
from causalvae_pyro.cli.scoring import score
from causalvae_pyro.cli.stages import Stages
from causalvae_pyro.datasets.registry import SIMULATORS, load_dataset
from causalvae_pyro.evaluation.data import check_scored, has_truth
from causalvae_pyro.guides import CalibratedGuide, calibrate
from causalvae_pyro.plots.style import units_of
from causalvae_pyro.recipes import fit_mechanisms
from causalvae_pyro.training import (
    Callback,
    EarlyStopping,
    TensorBoardLogger,
    TrainingCheckpoint,
    TrainingState,
    fit,
    resolve_device,
)
from causalvae_pyro.utils.compat import has_bf16
from causalvae_pyro.utils.files import check_writable, first_of
from causalvae_pyro.utils.label_columns import kind_counts
from causalvae_pyro.utils.missing_labels import keep_labels
from causalvae_pyro.utils.numbers import evenly_spaced
from causalvae_pyro.utils.unseen_pairs import pair_text

__all__ = ["run"]

# Labels of each concept; of fewer the end of an interval is not known.
_CALIBRATION = 20
# Scoring and report take about as long as so many epochs, simulators with sprites.
_SCORING = 3


def run(arguments: argparse.Namespace) -> None:
    """Trains.

    Args:
        arguments: Of the command.

    Raises:
        ValueError: If an argument is out of range, or does not fit the others.
    """
    # Started by accelerate launch or torchrun, one of several processes speaks, writes and scores.
    main_process = os.environ.get("RANK", "0") == "0"
    stages = Stages(quiet=arguments.quiet or not main_process, scores=arguments.json and main_process)
    device = resolve_device(arguments.device)
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit: got {arguments.limit}; must be at least 1")
    for name, value in PRESETS[arguments.preset].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if not 0 < arguments.label_share <= 1:
        raise ValueError(f"--label-share: got {arguments.label_share}; must lie in (0, 1]")
    if not 0 <= arguments.validation_share < 1:
        raise ValueError(f"--validation-share: got {arguments.validation_share}; must lie in [0, 1)")
    description = describe(arguments)
    out = arguments.out or Path("runs") / description["name"]
    if not arguments.resume:
        _stopped_in(out, arguments.overwrite)
    check_writable(out, "--out")
    with stages.stage("data") as note:
        train_data = load_dataset(description, "train")
        limit = arguments.limit or (QUICK[0] if arguments.quick else len(train_data))
        count = min(limit, len(train_data))
        # Evenly spaced: the first scenes of the grid share one value of the first concept.
        chosen = evenly_spaced(count, len(train_data))
        validation: tuple[Any, Tensor] | None = None
        if arguments.validation_share:
            chosen, held = _hold_out(chosen, arguments.validation_share, arguments.seed)
            validation = train_data.images[held], train_data.labels[held]
        elif getattr(train_data, "has_validation", False):
            valid = load_dataset(description, "valid")
            held = evenly_spaced(min(limit, len(valid)), len(valid))
            validation = valid.images[held], valid.labels[held]
        # All of them as they are: they may be mapped from a file.
        images = train_data.images[chosen] if len(chosen) < len(train_data) else train_data.images
        labels = train_data.labels[chosen]
        note(f"{len(images)} images of {train_data!r}" if len(images) < len(train_data) else repr(train_data))
    if unnamed := getattr(train_data, "unnamed", ()):
        beside = f"{len(unnamed)} image{'s' if len(unnamed) > 1 else ''} beside them that the table does not name"
        stages.say(f"{beside}: left out ({first_of(unnamed)})")
    if recoded := getattr(train_data, "recoded", ()):
        stages.say(f"labels of -1 and 1 are taken as 0 and 1: {', '.join(recoded)}")
    # Now, not after hours of training.
    if arguments.data not in SIMULATORS and (shared := _check_test(load_dataset(description, "test"), train_data)):
        apart = f"--split-by {arguments.group_by} keeps them apart"
        stages.say(f"{shared} of {arguments.group_by!r} have images on both sides: scores say little of new ones ({apart})")
    if validation is not None:
        whose = "" if arguments.validation_share else ", as the table has it"
        stages.say(f"{len(validation[1])} images are held out for validation{whose}")
    groups = getattr(train_data, "groups", None)
    groups = None if groups is None else groups[chosen]
    kinds = getattr(train_data, "kinds", None)
    if arguments.label_share < 1:
        labels = keep_labels(labels, arguments.label_share, seed=arguments.seed)
        if validation is not None:
            validation = validation[0], keep_labels(validation[1], arguments.label_share, seed=arguments.seed)
    counts = kind_counts(kinds or {}, train_data.graph.names)
    for name, count, column in zip(train_data.graph.names, counts, labels.T, strict=True):
        if missing := sorted(set(range(count)) - set(column[~column.isnan()].tolist())):
            stages.say(f"no image to train on has {name} {', '.join(map(str, missing))}: counterfactuals with it are not learned")
    recipe, reason = choose(arguments, images, labels, groups, counts)
    if reason:
        stages.say(reason)
    photographs = recipe.decoder == "hierarchical"
    epochs, batch_size = schedule(arguments, recipe, len(images))
    precision = arguments.mixed_precision or ("bf16" if photographs and has_bf16(device) else None)
    semi: dict[str, Any] = {}
    repeats = 1 if recipe.grouped else recipe.labelled_repeats(labels)
    # A table of one's own may lack most of them.
    if arguments.label_share < 1 or repeats > 1:
        labelled = len(labels) - int(labels.isnan().any(1).sum())
        share = arguments.label_share if arguments.label_share < 1 else round(labelled / len(labels), 4)
        semi = {"label_share": share, "labelled": labelled, "labelled_repeats": repeats}
    config = {
        "data": description,
        "training": {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": arguments.lr,
            "seed": arguments.seed,
            "images": len(images),
            "device": str(device),
            **({} if validation is None else {"validation": len(validation[1])}),
            **semi,
        },
        **({"chosen": reason} if reason else {}),
        **({"units": units} if (units := units_of(train_data)) else {}),
        "versions": {
            "causalvae_pyro": causalvae_pyro.__version__,
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
    }
    torch.manual_seed(arguments.seed)
    with stages.stage("start") as note:
        pair = recipe.build(train_data.graph, images, labels, config, kinds=kinds, groups=groups)
        parameters = sum(p.numel() for module in (pair.model, pair.guide) for p in module.parameters())
        note(f"{parameters / 1e6:.2f} million parameters, on {device}{_parts_seen(pair.config.get('start', {}))}")
    if unseen := pair.config.get("unseen"):
        stages.say(f"hardly any image has {', '.join(map(pair_text, unseen))}: counterfactuals of that kind are not learned")
    checkpoint = TrainingCheckpoint(
        out, settings={"data": description, "recipe": pair.config["recipe"], "label_share": arguments.label_share}
    )
    # Also while it is scored: another training would replace what is read then.
    with checkpoint.lock() if main_process else nullcontext():
        if semi:
            stages.say(f"with the labels of {semi['labelled']} images, each shown {semi['labelled_repeats']} times an epoch")
            fit_mechanisms(pair.model, labels)
        # Once more: another training may have finished meanwhile.
        if main_process and not arguments.resume and (stopped := _stopped_in(out, arguments.overwrite)) is not None:
            lost = "it is replaced (--resume would have continued it)"
            stages.say(f"{out} holds a training run that was stopped in epoch {stopped}; {lost}")
        callbacks: list[Callback] = [SaveCheckpoint(out, pair.config)]
        callbacks += [] if arguments.patience is None else [EarlyStopping(patience=arguments.patience)]
        callbacks += [] if arguments.tensorboard is None else [TensorBoardLogger(arguments.tensorboard)]
        callbacks += [_Estimate(stages, epochs, has_truth(train_data))] if main_process else []
        with stages.stage("training", bars=True) as note:
            history = fit(
                pair.model,
                pair.guide,
                (images, labels),
                validation=validation,
                objective=recipe.objective(pair),
                epochs=epochs,
                batch_size=batch_size,
                lr=arguments.lr,
                max_grad_norm=arguments.max_grad_norm,
                ema_decay=arguments.ema,
                device=arguments.device,
                mixed_precision=precision,
                micro_batches=arguments.micro_batches,
                compiled=arguments.compile,
                deterministic=arguments.deterministic,
                seed=arguments.seed,
                labelled_repeats=semi.get("labelled_repeats", 1),
                groups=groups if recipe.grouped else None,
                callbacks=callbacks,
                checkpoint=checkpoint,
                resume=arguments.resume,
                progress=not arguments.quiet,
            )
            note(f"{len(history)} epochs")
        if not main_process:
            return
        if validation is not None and _calibrate(load(out, device=device), *validation, out):
            stages.say("the guide's intervals are calibrated on the images held out")
        scored = {"limit": QUICK[1] if arguments.quick else None, "quick": arguments.quick}
        score(load(out, device=device), out, history.rows, train_data=train_data, stages=stages, **scored)
        stages.say(f"done in {stages.seconds:.0f} s")


def _check_test(test: Any, train: Any) -> int:
    """Refuses test images that cannot be scored; the number of groups that have images to train and to test."""
    check_scored(test)
    names = [{data.group_names[k] for k in data.groups.tolist()} for data in (train, test) if getattr(data, "group_names", ())]
    return len(set.intersection(*names)) if names else 0


class _Estimate(Callback):
    """Says after the first epoch how long the whole will take, as far as that can be told."""

    def __init__(self, stages: Stages, epochs: int, truth: bool) -> None:
        self.stages, self.epochs, self.before = stages, epochs, stages.seconds
        # Without the truth a predictor is trained for the scores, and the epochs of photographs get longer.
        self.words = "about {} in all" if truth else "at least {} in all, without the predictor that the scores may need"

    def on_epoch_end(self, state: TrainingState) -> None:
        if state.epoch == 1 and self.epochs > 1:
            epoch = self.stages.seconds - self.before
            whole = self.before + (self.epochs + _SCORING) * epoch
            self.stages.say(f"an epoch takes {epoch:.0f} s: {self.words.format(_duration(whole))}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _calibrate(run: Run, images: Tensor, labels: Tensor, out: Path) -> bool:
    """Widens the guide's intervals to what they say, where there are labels enough and none of two values only."""
    if (
        any(run.config.get("binary", ()))
        or any(getattr(run.model.prior, "kinds", ()))
        or int((~labels.isnan()).sum(0).min()) < _CALIBRATION
    ):
        return False
    # A finished run that is resumed has been calibrated.
    guide = run.guide.guide if isinstance(run.guide, CalibratedGuide) else run.guide
    save(Run(run.model, calibrate(run.model, guide, images, labels), run.config), out)
    return True


def _parts_seen(start: dict[str, Any]) -> str:
    """What a decoder of parts has to say on its start."""
    if start.get("parts") == 0:
        return "; no parts are seen in the images"
    if start.get("unexplained") is None:
        return ""
    explained = max(0.0, 1 - start["unexplained"])
    return f"; parts seen in the images ({start['parts']}) explain {100 * explained:.0f} % of their variance at the start"


def _hold_out(rows: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Some rows for training and a random share of them, two at least, for validation, in the order of the data."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    cut = max(2, round(share * len(rows)))
    if cut >= len(rows):
        raise ValueError(f"--validation-share: got {share}, which leaves no training image of {len(rows)}; must be less")
    return rows[order[cut:].sort().values], rows[order[:cut].sort().values]


def _stopped_in(out: Path, overwrite: bool) -> int | None:
    """The epoch in which an earlier training in the same place was stopped; one that is whole is not replaced unasked.

    Raises:
        ValueError: If there is a run that no training has stopped, and it is not to be overwritten.
    """
    state: dict[str, Any] | None = None
    with suppress(ValueError):
        state = TrainingCheckpoint(out).read()
    if state is not None and not state["finished"]:
        return state["epoch"]
    if not overwrite and (out / WEIGHTS).exists():
        raise ValueError(f"--out: {out} holds a finished run; --overwrite replaces it, another --out keeps it")
    return None
