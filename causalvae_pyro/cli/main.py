"""The ``causalvae`` command: train, evaluate, counterfactual, explore, share."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro
import torch

import causalvae_pyro
from causalvae_pyro.checkpoints.hub import push_to_hub, save_pretrained
from causalvae_pyro.checkpoints.runs import HISTORY, Run, SaveCheckpoint, load
from causalvae_pyro.cli.arguments import PRESETS, parse
from causalvae_pyro.datasets.registry import FOLDER, SIMULATORS, load_dataset
from causalvae_pyro.datasets.splits import evenly_spaced
from causalvae_pyro.evaluation.evaluate import evaluate, has_truth, score_table, train_predictor
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.interventions.counterfactuals import counterfactual
from causalvae_pyro.plots.figures import plot_comparison
from causalvae_pyro.plots.style import do_label, save_figure, units_of
from causalvae_pyro.recipes import Recipe, fit_mechanisms
from causalvae_pyro.training import (
    Callback,
    EarlyStopping,
    NonFiniteLossError,
    TensorBoardLogger,
    TrainingCheckpoint,
    fit,
    resolve_device,
)
from causalvae_pyro.training.monitor import non_finite, shortened
from causalvae_pyro.utils.files import open_table
from causalvae_pyro.utils.missing_labels import keep_labels

__all__ = ["main"]

#: Pictures of a run that its model card shows.
SHARED = ("graph.png", "counterfactuals.png", "scores.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console command.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The exit status: 0, 2 for bad input, 1 for a failed training, 130 after Ctrl-C.
    """
    commands = {"train": _train, "evaluate": _evaluate, "counterfactual": _counterfactual, "share": _share}
    arguments = parse(argv, commands)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        on = "; the same command with --resume goes on from here" if arguments.run is _train else ""
        print(f"causalvae: interrupted{on}", file=sys.stderr)
        return 130
    except NonFiniteLossError as error:
        print(f"causalvae: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        # Messages of libraries may go on for many lines.
        print(f"causalvae: error: {(str(error) or type(error).__name__).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


def _train(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    device = resolve_device(arguments.device)
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit: got {arguments.limit}; must be at least 1")
    for name, value in PRESETS[arguments.preset].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if not 0 < arguments.label_share <= 1:
        raise ValueError(f"--label-share: got {arguments.label_share}; must lie in (0, 1]")
    description = _description(arguments)
    out = arguments.out or Path("runs") / description["name"]
    train_data = load_dataset(description, "train")
    count = min(arguments.limit or len(train_data), len(train_data))
    # Evenly spaced: the first scenes of the grid share one value of the first concept.
    chosen = evenly_spaced(count, len(train_data))
    images, labels = train_data.images[chosen], train_data.labels[chosen]
    # With few labels the sprites are untried.
    decoder = arguments.decoder or ("sprites" if arguments.data and arguments.label_share == 1 else "conv")
    if decoder == "sprites" and arguments.patience is not None:
        raise ValueError("--patience: the sprites' loss grows with the price on their effects, and would end any training early")
    recipe = Recipe(
        dim=arguments.dim,
        prior_std=arguments.prior_std,
        w_eps=arguments.w_eps,
        w_z=arguments.w_z,
        decoder=decoder,
        encoder=arguments.encoder,
        refinements=arguments.refinements,
    )
    semi: dict[str, Any] = {}
    if arguments.label_share < 1:
        labels = keep_labels(labels, arguments.label_share, seed=arguments.seed)
        labelled = len(labels) - int(labels.isnan().any(1).sum())
        semi = {"label_share": arguments.label_share, "labelled": labelled, "labelled_repeats": recipe.labelled_repeats(labels)}
    config = {
        "data": description,
        "training": {
            "epochs": arguments.epochs,
            "batch_size": arguments.batch_size,
            "lr": arguments.lr,
            "seed": arguments.seed,
            "images": len(images),
            "device": str(device),
            **semi,
        },
        **({"units": units} if (units := units_of(train_data)) else {}),
        "versions": {
            "causalvae_pyro": causalvae_pyro.__version__,
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
    }
    torch.manual_seed(arguments.seed)
    run = recipe.build(train_data.graph, images, labels, config)
    # Started by accelerate launch or torchrun, one of several processes speaks, writes and scores.
    main_process = os.environ.get("RANK", "0") == "0"
    say = print if main_process else _silent
    checkpoint = TrainingCheckpoint(
        out, settings={"data": description, "recipe": asdict(recipe), "label_share": arguments.label_share}
    )
    # Also while it is scored: another training would replace what is read then.
    with checkpoint.lock() if main_process else nullcontext():
        parameters = sum(p.numel() for module in (run.model, run.guide) for p in module.parameters())
        count = f"{len(images)} images of " if len(images) < len(train_data) else ""
        say(f"training on {count}{train_data!r}, {parameters / 1e6:.2f} million parameters, on {device}")
        if semi:
            say(f"with the labels of {semi['labelled']} images, each shown {semi['labelled_repeats']} times an epoch")
            fit_mechanisms(run.model, labels)
        if not arguments.resume and (left := _left_over(checkpoint)) is not None:
            say(f"{out} holds a training that was stopped in epoch {left}, and is replaced; --resume would have gone on with it")
        callbacks: list[Callback] = [SaveCheckpoint(out, run.config)]
        callbacks += [] if arguments.patience is None else [EarlyStopping(patience=arguments.patience)]
        callbacks += [] if arguments.tensorboard is None else [TensorBoardLogger(arguments.tensorboard)]
        history = fit(
            run.model,
            run.guide,
            (images, labels),
            objective=recipe.objective(run),
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            max_grad_norm=arguments.max_grad_norm,
            ema_decay=arguments.ema,
            device=arguments.device,
            mixed_precision=arguments.mixed_precision,
            micro_batches=arguments.micro_batches,
            compiled=arguments.compile,
            deterministic=arguments.deterministic,
            seed=arguments.seed,
            labelled_repeats=semi.get("labelled_repeats", 1),
            callbacks=callbacks,
            checkpoint=checkpoint,
            resume=arguments.resume,
        )
        if not main_process:
            return
        say(f"trained in {time.perf_counter() - started:.0f} s; scoring")
        _score(load(out, device=device), out, history.rows, train_data=train_data)
        say(f"done in {time.perf_counter() - started:.0f} s")


def _silent(*values: Any) -> None:
    """In place of ``print``."""


def _left_over(checkpoint: TrainingCheckpoint) -> int | None:
    """The epoch in which an earlier training in the same place was stopped."""
    try:
        state = checkpoint.read()
    except ValueError:
        return None
    return None if state is None or state.get("finished") else state.get("epoch")


def _description(arguments: argparse.Namespace) -> dict[str, Any]:
    own = {name: getattr(arguments, name) for name in ("images", "labels", "graph")}
    given = [f"--{name}" for name, path in own.items() if path is not None] + ["--unit"] * bool(arguments.unit)
    common = {"size": arguments.size, "seed": arguments.seed}
    if arguments.data is not None and not given:
        return {"name": arguments.data, "noise": arguments.noise, "partition": arguments.partition, **common}
    if arguments.data is None and None not in own.values():
        pairs = [_unit(text) for text in arguments.unit or ()]
        units = dict(pairs)
        if len(units) < len(pairs):
            raise ValueError("--unit: a concept is given twice")
        paths = {name: str(path.resolve()) for name, path in own.items()}
        return {"name": FOLDER, **paths, **({"units": units} if units else {}), **common}
    what = " and ".join(([arguments.data] if arguments.data else []) + given) or "neither"
    raise ValueError(
        f"data: got {what}; give a simulator ({', '.join(sorted(SIMULATORS))}) or all of --images, --labels and --graph"
    )


def _load(path: Path, device: torch.device | str = "cpu") -> Run:
    run = load(path, device=device)
    if spoilt := non_finite(model=run.model, guide=run.guide):
        raise ValueError(f"RUN: {shortened(spoilt)} of {path} holds NaN or infinities: its training has diverged")
    return run


def _read_history(path: Path) -> list[dict[str, float]]:
    """The rows of the training history; none where there is no file."""
    if not path.is_file():
        return []
    with open_table(path, f"RUN: {path}") as file:
        try:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, strict=True)]
        except (TypeError, ValueError):
            # Longer and shorter rows have lists and nothing among their values.
            raise ValueError(f"RUN: {path} is not the history of a training") from None


def _read_scores(path: Path) -> dict[str, Any] | None:
    """What an evaluation has found; ``None`` where there is no file."""
    if not path.is_file():
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        means = {name: scores.get("representation", {}).get(name, 0.0) for name in ("mic_mean", "tic_mean")}
        for name, values in (("r2", scores.get("r2", {})), ("cf_score", scores.get("cf_score", {})), ("representation", means)):
            if not all(isinstance(value, (int, float)) for value in values.values()):
                raise TypeError(f"{name} is not made of numbers")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"RUN: {path} does not hold the scores of a run ({type(error).__name__}: {error})") from None
    return scores


def _evaluate(arguments: argparse.Namespace) -> None:
    run = _load(arguments.path, device=resolve_device(arguments.device))
    rows = _read_history(arguments.path / HISTORY)
    predict, fid = (getattr(arguments, name, None) for name in ("predictor", "fid"))
    _score(run, arguments.path, rows, limit=arguments.limit, predict=predict, fid=fid)


def _counterfactual(arguments: argparse.Namespace) -> None:
    run = _load(arguments.path, device=resolve_device(arguments.device))
    do: dict[str, float] = {}
    for name, value in map(_assignment, arguments.do):
        if name in do:
            raise ValueError(f"--do: {name!r} is given twice")
        do[name] = value
    if arguments.count < 1:
        raise ValueError(f"--count: got {arguments.count}; must be at least 1")
    data = load_dataset(run.config.get("data"), "test")
    chosen = evenly_spaced(min(arguments.count, len(data)), len(data))
    x, labels = data.images[chosen], data.labels[chosen]
    images = counterfactual(run.model, run.guide, x, do, labels).cpu()
    rows = [("factual", x), (f"{do_label(do, units_of(data) or run.units)}\nmodel", images)]
    if has_truth(data):
        true_labels, true = data.counterfactual(labels, do)
        rows.append(("true", true))
        for i, before, after in zip(chosen.tolist(), labels.tolist(), true_labels.tolist(), strict=True):
            pairs = (f"{n} {a:.3g} -> {b:.3g}" for n, a, b in zip(run.graph.names, before, after, strict=True))
            print(f"image {i}: {', '.join(pairs)}")
    save_figure(plot_comparison(rows), arguments.out)
    print(f"wrote {arguments.out}")


def _share(arguments: argparse.Namespace) -> None:
    run = _load(arguments.path)
    options: dict[str, Any] = {
        "scores": _read_scores(arguments.path / "metrics.json"),
        "pictures": [path for name in SHARED if (path := arguments.path / name).is_file()],
    }
    if arguments.to is None:
        print(push_to_hub(run, arguments.repository, private=arguments.private, **options))
        return
    if arguments.to.resolve() == arguments.path.resolve():
        raise ValueError(f"--to: got {arguments.to}, which is the run itself")
    save_pretrained(run, arguments.to, **options)
    print(f"wrote {arguments.to}")


def _score(
    run: Run,
    out: Path,
    rows: list[dict[str, float]],
    *,
    limit: int | None = None,
    predict: bool | None = None,
    fid: str | None = None,
    train_data: Any = None,
) -> None:
    description = run.config.get("data")
    data = load_dataset(description, "test")
    if predict is None:
        # Skipped by default unless sides divide by 4.
        predict = not has_truth(data) and not any(side % 4 for side in data.images.shape[-2:])
    options: dict[str, Any] = {"fid_features": 2048} if fid == "inception" else {}
    if predict or fid == "predictor":
        train_data = load_dataset(description, "train") if train_data is None else train_data
        print(f"training a predictor on {len(train_data)} images")
        predictor = train_predictor(train_data.images, train_data.labels, device=run.model.zero.device, progress=True)
        options |= ({"predictor": predictor.predict} if predict else {}) | (
            {"fid_features": predictor.features} if fid == "predictor" else {}
        )
    metrics = evaluate(run, data, limit=limit, **options)
    page = write_report(run, data, metrics, rows, out)
    print(f"\n{score_table(metrics)}\n\nPictures, scores and settings: {page}")


def _unit(text: str) -> tuple[str, str]:
    name, _, unit = (part.strip() for part in text.partition("="))
    if not unit:
        raise ValueError(f"--unit: got {text!r}; expected CONCEPT=UNIT, e.g. thickness=px")
    return name, unit


def _assignment(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ValueError(f"--do: got {text!r}; expected CONCEPT=NUMBER, e.g. light=12") from None
