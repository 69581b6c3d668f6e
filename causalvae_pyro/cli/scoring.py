"""The score card and the report of a run, as stages of a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causalvae_pyro.checkpoints.runs import Run, weights_digest
from causalvae_pyro.cli.stages import Stages
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.evaluation.evaluate import evaluate, has_truth, score_table, train_predictor
from causalvae_pyro.evaluation.predicted import train_photograph_predictor
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.recipes.views import VIEWS

__all__ = ["score"]

_PREDICTOR_STEPS, _FEW_STEPS = 1000, 200


def score(
    run: Run,
    out: Path,
    rows: list[dict[str, float]],
    *,
    stages: Stages,
    description: Mapping[str, Any] | None = None,
    limit: int | None = None,
    quick: bool = False,
    predict: bool | None = None,
    fid: str | None = None,
    lpips_weights: Path | None = None,
    train_data: Any = None,
    report: bool = True,
) -> None:
    """Scores a run on its test images, writes its report and shows the scores.

    Args:
        run: The run.
        out: Where the report goes.
        rows: Of its training history.
        stages: Of the command.
        description: Of the data; by default the run's.
        limit: See :func:`~causalvae_pyro.evaluation.evaluate`.
        quick: A predictor for photographs of fewer steps, for a look.
        predict: Whether to train a predictor of the labels; by default where the true counterfactuals are not known.
        fid: ``"inception"`` or ``"predictor"``, whose features the Frechet distance takes; none by default.
        lpips_weights: See :func:`~causalvae_pyro.evaluation.evaluate`.
        train_data: What the predictor learns from; loaded where it is not given.
        report: Whether to write scores and report.
    """
    description = run.config.get("data") if description is None else description
    data = load_dataset(description, "test")
    if predict is None:
        # Skipped by default unless sides divide by 4.
        predict = not has_truth(data) and not any(side % 4 for side in data.images.shape[-2:])
    options: dict[str, Any] = {"fid_features": 2048} if fid == "inception" else {}
    options |= {} if lpips_weights is None else {"lpips_weights": lpips_weights}
    kinds = getattr(run.model.prior, "kinds", (0,) * len(run.graph))
    binary = run.config.get("binary", [False] * len(run.graph) if any(kinds) else None)
    if predict and binary is not None and not any(side % 16 for side in data.images.shape[-2:]):
        # Photographs: a predictor that saw other images than the classifiers of the training. Categories: one that reads them.
        train_data = load_dataset(description, "train") if train_data is None else train_data
        order = [run.graph.names.index(name) for name in data.graph.names]
        recipe = run.config.get("recipe", {})
        with stages.stage("predictor", bars=True) as note:
            options["photograph_predictor"] = train_photograph_predictor(
                train_data.images,
                train_data.labels,
                [binary[k] for k in order],
                mirror=recipe.get("mirror", True),
                views=recipe.get("views", VIEWS),
                kinds=[kinds[k] for k in order],
                steps=_FEW_STEPS if quick else _PREDICTOR_STEPS,
                device=run.model.zero.device,
                progress=not stages.quiet,
            )
            options["features"] = options["photograph_predictor"].features
            note("trained on the images that no classifier of the training saw")
        predict = False
    if predict or fid == "predictor":
        train_data = load_dataset(description, "train") if train_data is None else train_data
        with stages.stage("predictor", bars=True) as note:
            device, progress = run.model.zero.device, not stages.quiet
            predictor = train_predictor(train_data.images, train_data.labels, device=device, progress=progress)
            note(f"trained on {len(train_data)} images")
        options |= ({"predictor": predictor.predict} if predict else {}) | (
            {"fid_features": predictor.features} if fid == "predictor" else {}
        )
    with stages.stage("scoring", bars=True) as note:
        metrics = evaluate(run, data, limit=limit, progress=not stages.quiet, **options)
        note(f"{metrics['images']} test images")
    page = None
    if report:
        with stages.stage("report") as note:
            page = write_report(run, data, metrics, rows, out)
            note(str(page))
    stages.finish({"weights": weights_digest(run), **metrics}, score_table(metrics), page)
