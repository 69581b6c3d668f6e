"""The score card and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.evaluation.evaluate import evaluate, has_truth, score_table, train_predictor
from causalvae_pyro.evaluation.predicted import train_photograph_predictor
from causalvae_pyro.evaluation.report import write_report

__all__ = ["score"]

_PREDICTOR_STEPS = 1000


def score(
    run: Run,
    out: Path,
    rows: list[dict[str, float]],
    *,
    description: Mapping[str, Any] | None = None,
    limit: int | None = None,
    predict: bool | None = None,
    fid: str | None = None,
    train_data: Any = None,
    report: bool = True,
) -> None:
    """Scores a run on its test images, writes its report and prints the table.

    Args:
        run: The run.
        out: Where the report goes.
        rows: Of its training history.
        description: Of the data; by default the run's.
        limit: See :func:`~causalvae_pyro.evaluation.evaluate`.
        predict: Whether to train a predictor of the labels; by default where the true counterfactuals are not known.
        fid: ``"inception"`` or ``"predictor"``, whose features the Frechet distance takes; none by default.
        train_data: What the predictor learns from; loaded where it is not given.
        report: Whether to write scores and report.
    """
    description = run.config.get("data") if description is None else description
    data = load_dataset(description, "test")
    if predict is None:
        # Skipped by default unless sides divide by 4.
        predict = not has_truth(data) and not any(side % 4 for side in data.images.shape[-2:])
    options: dict[str, Any] = {"fid_features": 2048} if fid == "inception" else {}
    kinds = getattr(run.model.prior, "kinds", (0,) * len(run.graph))
    binary = run.config.get("binary", [False] * len(run.graph) if any(kinds) else None)
    if predict and binary is not None and not any(side % 16 for side in data.images.shape[-2:]):
        # Photographs: a predictor that saw other images than the classifiers of the training. Categories: one that reads them.
        train_data = load_dataset(description, "train") if train_data is None else train_data
        order = [run.graph.names.index(name) for name in data.graph.names]
        mirror = run.config.get("recipe", {}).get("mirror", True)
        print("training a predictor on the images that no classifier of the training saw")
        options["photograph_predictor"] = train_photograph_predictor(
            train_data.images,
            train_data.labels,
            [binary[k] for k in order],
            mirror=mirror,
            kinds=[kinds[k] for k in order],
            steps=_PREDICTOR_STEPS,
            device=run.model.zero.device,
            progress=True,
        )
        predict = False
    if predict or fid == "predictor":
        train_data = load_dataset(description, "train") if train_data is None else train_data
        print(f"training a predictor on {len(train_data)} images")
        predictor = train_predictor(train_data.images, train_data.labels, device=run.model.zero.device, progress=True)
        options |= ({"predictor": predictor.predict} if predict else {}) | (
            {"fid_features": predictor.features} if fid == "predictor" else {}
        )
    metrics = evaluate(run, data, limit=limit, **options)
    page = write_report(run, data, metrics, rows, out) if report else None
    print(f"\n{score_table(metrics)}")
    if page is not None:
        print(f"\nFigures, scores and settings: {page}")
