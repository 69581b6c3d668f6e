"""The table of counterfactuals of faces, from the committed figures."""

from __future__ import annotations

from counterfactual_tables import load, value

__all__ = ["faces"]

_COLUMNS = (
    "read from real images: by the encoder",
    "by the predictor",
    "value set: accuracy",
    "of the image left alone",
    "F1",
    "AUC",
    "others unchanged",
    "identity kept",
)


def faces() -> list[str]:
    """CelebA's SMILE group: what a predictor with no part in training makes of counterfactuals."""
    result = load("celeba_smile")
    seeds, predicted = result["seeds"], result["predicted"]
    epochs = result["options"][result["options"].index("--epochs") + 1]
    lines = [
        f"Faces of CelebA, its first 10,000 images at half size, split by person (8,016 to train, 1,984 to test), {seeds}"
        f" seed{'s' if seeds > 1 else ''}",
        f"(`python benchmarks/quality.py --data celeba --seeds {seeds} -- --root DIR --group smile --epochs {epochs}`). Each",
        "concept is set to its other value. A predictor of another architecture, trained on images that no classifier of the",
        "training saw, reads it:",
        "",
        f"| | {' | '.join(_COLUMNS)} |",
        f"|---|{'---|' * len(_COLUMNS)}",
    ]
    for name, scores in predicted["do"].items():
        kept = ", ".join(f"{other} {value(cell, 3)}" for other, cell in scores["unchanged"].items())
        numbers = [result["accuracy"][name], predicted["factual"][name]["accuracy"], scores["set"]["accuracy"]]
        numbers += [predicted["left_alone"]["set"][name]["accuracy"], scores["set"]["f1"], scores["set"]["auc"]]
        cells = [*(value(number, 3) for number in numbers), kept or "(all others are effects)", value(scores["identity"], 3)]
        lines.append(f"| do({name}) | {' | '.join(cells)} |")
    labels = {key: f"{value(result[key], 3)} ({value(result[f'{key}_of_the_labels'], 3)})" for key in ("mic", "tic")}
    return [
        *lines,
        "",
        f"Squared error of reconstructions {value(result['reconstruction_mse'], 5)}, which keep the identity in"
        f" {value(predicted['left_alone']['identity'], 3)};",
        f"error after ten null interventions {value(result['composition_growth'], 2)} times that after one. MIC {labels['mic']},"
        f" TIC {labels['tic']}, in brackets what",
        f"the labels themselves have. Training and scoring take {result['seconds']['mean'] / 60:.0f} minutes of one core, in half"
        " precision.",
    ]
