"""The tables of docs/results.md with the protocol's figures, from the committed summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["faces", "markdown"]

_METHODS = {"vae": "conditional VAE", "hvae": "conditional hierarchical VAE", "ours": "ours"}
_KEPT = {"": "", " pixel noise 1": ", all pixel noise kept", " pixel noise 1, fade 0.03": ", all kept, fade 0.03"}
_ROWS = {method + kept: title + text for method, title in _METHODS.items() for kept, text in _KEPT.items()}
_DIGITS, _FACES = ("thickness", "intensity", "digit"), ("Smiling", "Eyeglasses")
_WIDTHS = ", each with half of its 95 % interval where so many digits show it"
_PUBLISHED_FACES = {
    "published VAE": ("0.897 / 0.987", "0.938 / 0.810"),
    "published HVAE": ("0.998 / 0.997", "0.883 / 0.981"),
    "published GAN": ("0.819 / 0.873", "0.957 / 0.891"),
}
#: Of Melistas et al. 2024, on other digits and by other judges: thickness, intensity and digit under each intervention;
#: composition after 1 and 10 cycles; CLD.
_PUBLISHED = {
    "published VAE": ("0.109 / 0.333 / 0.139", "3.15 / 5.33 / 4.64", "0.989 / 0.988 / 0.775", "2.60, 7.70", "0.268"),
    "published HVAE": ("0.086 / 0.224 / 0.117", "1.99 / 3.52 / 2.10", "0.985 / 0.935 / 0.972", "0.44, 1.55", "0.272"),
}


def markdown(path: Path) -> str:
    """The figures of ``benchmarks/results/protocol_morphomnist.json`` as a table, with what was run.

    Args:
        path: The file.
    """
    result = json.loads(path.read_text())
    rows, settings = result["rows"], result["settings"]
    count, first = len(result["seeds"]), next(iter(rows.values()))

    def triple(found: dict[str, Any], attribute: str, digits: int) -> str:
        return _means([found[f"effectiveness do({name}) {attribute}"] for name in _DIGITS], digits)

    lines = [
        f"{count} seed{'s' * (count > 1)}, {settings['epochs']} epochs of 8,000 digits, 2,000 to test; under do(thickness) / "
        f"do(intensity) / do(digit), against the method's own counterfactual parents{_WIDTHS * (count > 1)}; published rows are "
        "of other digits and judges:",
        "",
        "| | thickness MAE, px | intensity MAE, grey levels | digit accuracy | composition L1, grey levels, 1 and 10 cycles "
        "| CLD | distance from training images |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, title in _ROWS.items():
        if (found := rows.get(row)) is None:
            continue
        drift = _means([found[f"composition_l1_grey {k}"] for k in (1, 10)], 2, ", ")
        cells = [triple(found, "thickness", 3), triple(found, "intensity", 2), triple(found, "digit", 3), drift]
        cells += [_means([found["cld mean"]], 3), _means([found["fid counterfactuals"]], 2)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [f"| {row} | {' | '.join(cells)} | |" for row, cells in _PUBLISHED.items()]
    real = rows["judges on real images"]
    own = [f"{real[name]['mean']:.{digits}f}" for name, digits in zip(_DIGITS, (3, 2, 3), strict=True)]
    alone = sum(first[f"cld {name}, left alone"]["mean"] for name in _DIGITS) / len(_DIGITS)
    lines.append(f"| real test images | {' | '.join(own)} | 0 | {alone:.3f} | {first['fid test images']['mean']:.2f} |")
    return "\n".join(lines)


def faces(path: Path) -> str:
    """The figures of ``benchmarks/results/protocol_celeba.json`` as a table, with what was run.

    Args:
        path: The file.
    """
    result = json.loads(path.read_text())
    rows, settings = result["rows"], result["settings"]
    count, first = len(result["seeds"]), next(iter(rows.values()))
    lines = [
        f"{count} seed{'s' * (count > 1)}, {settings['epochs']} epochs of 8,016 faces, 1,984 of other persons to test; "
        f"under do(smiling) / do(eyeglasses){_WIDTHS * (count > 1)}; published rows are of all of CelebA and other judges:",
        "",
        "| | F1 smiling | F1 eyeglasses | composition L1, grey levels, 1 and 10 cycles | distance from training images |",
        "|---|---|---|---|---|",
    ]
    for row, title in _ROWS.items():
        if (found := rows.get(row)) is None:
            continue
        cells = [_means([found[f"effectiveness do({do}) {name}_f1"] for do in _FACES], 3) for name in _FACES]
        cells.append(_means([found[f"composition_l1_grey {k}"] for k in (1, 10)], 2, ", "))
        lines.append(f"| {title} | {' | '.join(cells)} | {_means([found['fid counterfactuals']], 3)} |")
    lines += [f"| {row} | {' | '.join(cells)} | | |" for row, cells in _PUBLISHED_FACES.items()]
    own = [f"{rows['judges on real images'][f'{name}_f1']['mean']:.3f}" for name in _FACES]
    lines.append(f"| real test images | {' | '.join(own)} | 0 | {first['fid test images']['mean']:.3f} |")
    return "\n".join(lines)


def _means(figures: list[dict[str, Any]], digits: int, between: str = " / ") -> str:
    """Means side by side, each with half of its interval where there is one that is seen at so many digits."""
    found = []
    for each in figures:
        low, high = each.get("interval", (0.0, 0.0))
        width = f"{(high - low) / 2:.{digits}f}"
        found.append(f"{each['mean']:.{digits}f}" + (f" ± {width}" if float(width) else ""))
    return between.join(found)
