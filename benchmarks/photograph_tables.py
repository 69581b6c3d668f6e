"""The tables of docs/results.md on photographs, from the committed figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from counterfactual_tables import value

from causalvae_pyro.metrics import seeds_interval

__all__ = ["FACES", "faces", "light"]

#: Files of the SMILE group: ours, and what stands beside it.
FACES = "photographs_celeba_smile*.json"
_TITLES = {"causal_vae": "CausalVAE", "hvae": "conditional hierarchical VAE", "vae": "conditional VAE"}
_COLOUR = "*Change of colour*: mean absolute one over sixteenths of the image, in [0, 1]; a cast on most faces had 0.025."


def faces(paths: Sequence[Path]) -> str:
    """What a predictor with no part in training reads from counterfactuals of faces.

    Args:
        paths: The files of ``benchmarks/photographs.py``, of which the first counts for a method that several have.
    """
    methods, seeds = _methods(paths)
    first, settings = methods["causal_vae"], json.loads(paths[0].read_text())
    counted = ", ".join(f"{_TITLES[name]} {count}" for name, count in seeds.items())
    coloured = any("colour" in scores for one in methods.values() for scores in one["predicted"]["do"].values())
    lines = [
        f"{settings['limit']} test images of persons that training has not seen; seeds: {counted}; {settings['epochs']} epochs.",
        "Each concept is set to its other value, the others follow the graph. The predictor has another architecture, and learnt",
        "from real images that no classifier of the training has seen. *Left alone*: how often it reads the other value from the",
        "unchanged image. *Real*: how often it reads real images right that have the labels meant. *Fine detail*: ninth",
        "decile of how many times as much as the reconstruction; artefacts are well above 1.",
        *([_COLOUR] if coloured else []),
        "",
        f"| | {' | '.join(_TITLES[name] for name in methods)} | real images |",
        f"|---|{'---|' * (len(methods) + 1)}",
    ]

    def row(title: str, cells: list[str], real: str = "") -> None:
        lines.append(f"| {title} | {' | '.join(cells)} | {real} |")

    predicted = first["predicted"]
    for name in predicted["do"]:
        read = [value(scores["accuracy"][name], 3) for scores in methods.values()]
        row(f"{name} read by the encoder", read, value(predicted["factual"][name]["accuracy"], 3))
    for name in predicted["do"]:
        alone = value(predicted["left_alone"]["set"][name]["accuracy"], 3)
        real = _real(predicted["do"][name], name)
        seen = [value(scores["predicted"]["do"][name]["set"]["accuracy"], 3) for scores in methods.values()]
        row(f"do({name}) seen", seen, f"left alone: {alone}; real: {real}")
        if known := predicted["do"][name].get("overlap"):
            share, alone = known["share"]["mean"], value(known["left_alone"]["accuracy"], 3)
            shown = [m["predicted"]["do"][name].get("overlap") for m in methods.values()]
            cells = [value(one["set"]["accuracy"], 3) if one else "" for one in shown]
            row(f"the same, of the {100 * share:.0f} % whose labels images show", cells, f"left alone: {alone}")
    for name, scores in predicted["do"].items():
        for effect in scores["effects"]:
            # A method without edges means nothing to follow.
            followed = [m["predicted"]["do"][name]["effects"].get(effect) for m in methods.values()]
            cells = [value(one["accuracy"], 3) if one else "" for one in followed]
            row(f"do({name}): {effect} as the model means it", cells, f"real: {_real(scores, effect)}")
        for other in scores["unchanged"]:
            kept = [m["predicted"]["do"][name]["unchanged"] for m in methods.values()]
            row(f"do({name}): {other} unchanged", [value(cell[other], 3) for cell in kept], f"real: {_real(scores, other)}")
    for name in predicted["do"]:
        found = [m["predicted"]["do"][name].get("fine_detail") for m in methods.values()]
        row(f"do({name}): fine detail", [value(one, 2) if one else "" for one in found], "1")
    for name in predicted["do"]:
        found = [m["predicted"]["do"][name].get("colour") for m in methods.values()]
        alone = predicted["left_alone"].get("colour")
        if any(found):
            cells = [value(one, 4) if one else "" for one in found]
            row(f"do({name}): change of colour", cells, f"reconstructed: {value(alone, 4)}" if alone else "")
    row("squared error", [value(scores["reconstruction_mse"], 5) for scores in methods.values()])
    row("error after ten null interventions / one", [value(scores["composition_growth"], 2) for scores in methods.values()])
    for key in ("mic", "tic"):
        if own := first.get(f"{key}_of_the_labels"):
            row(key.upper(), [value(scores[key], 3) for scores in methods.values()], f"of the labels: {value(own, 3)}")
    row("parameters, millions", [f"{scores['parameters']['mean'] / 1e6:.2f}" for scores in methods.values()])
    row("minutes of training", [f"{scores['seconds']['mean'] / 60:.0f}" for scores in methods.values()])
    return "\n".join(lines)


def _real(scores: dict[str, Any], name: str) -> str:
    """What is read of real images with such labels; there may be none."""
    return value(scores["real"][name], 3) if name in scores["real"] else "none"


def _methods(paths: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """The scores of each method and the number of its seeds, from the first file that has it."""
    methods: dict[str, dict[str, Any]] = {}
    seeds: dict[str, int] = {}
    for path in paths:
        result = json.loads(path.read_text())
        for name, scores in result["methods"].items():
            methods.setdefault(name, scores)
            seeds.setdefault(name, len(result["seeds"]))
    return methods, seeds


def light(path: Path) -> str:
    """Counterfactuals of Extended Yale B against the true photographs.

    Args:
        path: The file of ``benchmarks/photographs.py``.
    """
    result = json.loads(path.read_text())
    ours, beside = result["methods"]["causal_vae"], result["methods"]["causal_vae"]["cf_baselines"]
    pair = next(iter(ours["cf_score"]))
    rows = {
        "CausalVAE, light read from the photograph": ours["cf_score"][pair],
        "ridge of persons, light given": beside["ridge of persons, light given"][pair],
        "mean training face, light given": beside["mean training face"][pair],
    }
    seeds = result["seeds"]
    lines = [
        f"Persons that training has not seen; a split by persons for each of {len(seeds)} seeds; {result['epochs']} epochs.",
        "",
        f"| CF-score of do({pair.replace('+', ', ')}) | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |",
        f"|---|{'---|' * (len(seeds) + 1)}",
    ]
    for name, scores in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{one:.3f}' for one in scores['values'])} | {value(scores, 3)} |")
    for name, scores in list(rows.items())[1:]:
        # Splits differ by more than methods do.
        more = seeds_interval([a - b for a, b in zip(ours["cf_score"][pair]["values"], scores["values"], strict=True)])
        cells = " | ".join(f"{one:+.3f}" for one in more["values"])
        lines.append(f"| ours minus {name.partition(',')[0]} | {cells} | {value(more, 3)} |")
    lines.append(f"| photograph left alone | {' | '.join('0' for _ in seeds)} | 0 |")
    r2 = ", ".join(f"{name} {value(scores, 4)}" for name, scores in ours["r2"].items())
    below = f"R² of the light that is read: {r2}. Squared error of reconstructions: {value(ours['reconstruction_mse'], 5)}."
    return "\n".join([*lines, "", below])
