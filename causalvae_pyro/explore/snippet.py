"""The lines of Python that give what the page shows."""

from __future__ import annotations

import os
from collections.abc import Mapping

from causalvae_pyro.explore.answers import Explorer, Factual
from causalvae_pyro.interventions.pixels import FADE

__all__ = ["python_lines"]


def python_lines(
    explorer: Explorer,
    factual: Factual,
    do: Mapping[str, float],
    path: str | os.PathLike,
    *,
    uncertainty: bool = False,
    detail: bool = False,
) -> str:
    """A program that computes the same counterfactual, to copy.

    Args:
        explorer: What answered.
        factual: The image asked about.
        do: The interventions, in label units.
        path: Directory of the run.
        uncertainty: Add the standard deviation over posterior samples.
        detail: Keep what the decoder leaves out.

    Returns:
        Lines after which ``image`` is the counterfactual ``[1, C, H, W]`` and, with uncertainty, ``deviation`` the standard
        deviation ``[1, H, W]``. For an uploaded image they read a file of that name in the current directory.
    """
    imports = ["from causalvae_pyro import counterfactual, load"]
    setup = [f"run = load({os.fspath(path)!r})"]
    if isinstance(factual.source, int):
        imports.append("from causalvae_pyro.datasets.registry import load_dataset")
        setup.append('data = load_dataset(run.config["data"], "test")')
        order = "" if explorer.in_order else "[:, [data.graph.index(name) for name in run.graph.names]]"
        setup.append(f"x, labels = data.images[[{factual.source}]], data.labels[[{factual.source}]]{order}")
        after = ", labels"
    else:
        imports.append("from causalvae_pyro.explore import read_image")
        setup.append(f"x = read_image({factual.source!r}, {explorer.shape})[None]")
        after = ""
    call = f"counterfactual(run.model, run.guide, x, {_mapping(do)}{after}"
    image = f"{call}, pixel_noise=1.0, fade={FADE}).clamp(0, 1)" if detail and factual.detail is not None else f"{call})"
    lines = [*imports, "", *setup, f"image = {image}"]
    if uncertainty:
        samples = f"samples = {call}, num_samples={explorer.samples})"
        lines = ["import torch", *lines, f"torch.manual_seed({explorer.seed})", samples]
        lines.append("deviation = samples.var(0).mean(1).sqrt()")
    return "\n".join(lines)


def _mapping(do: Mapping[str, float]) -> str:
    return "{" + ", ".join(f'"{name}": {value!r}' for name, value in do.items()) + "}"
