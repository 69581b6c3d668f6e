"""The scores of ``benchmarks/protocol.py``: the figures of Melistas et al. 2024, of any method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from protocol_judges import Judges
from sklearn.metrics import f1_score
from torch import Tensor

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics import FID, composition, gaussian_kl, lpips, minimality, reversibility

__all__ = ["Answer", "draw_values", "score"]

#: From images, their labels and the values of some attributes to counterfactuals and the labels that they are meant to have.
Answer = Callable[[Tensor, Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor]]

_BINS, _CYCLES, _LEVELS = 10, 10, 255.0
# Of so many images the means of composition and reversibility are known to a percent; the divergence compares every pair.
_FEW, _PAIRS = 500, 1000


def draw_values(column: Tensor, pool: Tensor, is_class: bool, generator: torch.Generator) -> Tensor:
    """A value for each image, drawn from those in the data that lie in another bin: ten of equal width, or another class.

    Args:
        column: The factual values ``[N]``.
        pool: The values to draw from ``[M]``.
        is_class: Whether they are classes: then each of the others is as probable.
        generator: Of the draw.
    """
    pool = pool.unique()
    ends = pool.min().item(), pool.max().item()
    edges = pool[1:] if is_class else torch.linspace(*ends, _BINS + 1, dtype=pool.dtype)[1:-1]
    own, bins = torch.bucketize(column.contiguous(), edges, right=True), torch.bucketize(pool.contiguous(), edges, right=True)
    allowed = (bins[None] != own[:, None]).float()
    return pool[torch.multinomial(allowed, 1, generator=generator)[:, 0]]


def score(
    answer: Answer,
    judges: Judges,
    graph: CausalGraph,
    kinds: Sequence[int],
    x: Tensor,
    labels: Tensor,
    pool: Tensor,
    training: Tensor,
    *,
    truth: Callable[[Tensor, Mapping[str, Tensor]], Tensor] | None,
    lpips_weights: str | None,
    seed: int,
) -> dict[str, Any]:
    """All of them.

    Args:
        answer: The method.
        judges: Who judges.
        graph: Its concepts are the attributes.
        kinds: For each of them the number of its kinds, 0 for a number.
        x: Test images in [0, 1].
        labels: Their labels.
        pool: Labels whose columns the values set are drawn from.
        training: Training images, the reference of the Frechet distance.
        truth: True counterfactual labels, where they are known.
        lpips_weights: See :func:`causalvae_pyro.metrics.lpips`; without, it is left out.
        seed: Fixes the values.
    """
    generator = torch.Generator().manual_seed(seed)
    names, found = graph.names, {}
    result: dict[str, Any] = {"effectiveness": {}, "reversibility_l1_grey": {}}
    for column, name in enumerate(names):
        values = draw_values(labels[:, column], pool[:, column], kinds[column] > 0, generator)
        images, meant = answer(x, labels, {name: values})
        found[name] = values, images, meant
        read = read_all(judges, images)
        result["effectiveness"][f"do({name})"] = agreement(read, names, kinds, meant)
        if truth is not None:
            # What the method's own counterfactual parents hide: whether they are right.
            right = agreement(read, names, kinds, truth(labels, {name: values}))
            result["effectiveness"][f"do({name})"]["against the truth"] = right
        # The counterfactual image is abducted with its own labels.
        back, given, few = {name: labels[:_FEW, column]}, meant[:_FEW], images[:_FEW]
        undone = reversibility(lambda _, i=few: i, lambda y, g=given, b=back: answer(y, g, b)[0], x[:_FEW])
        result["reversibility_l1_grey"][name] = _LEVELS * undone.item()
    last: list[Tensor] = []

    def null(images: Tensor) -> Tensor:
        last.append(answer(images, labels[:_FEW], {})[0])
        return last[-1]

    drift = _LEVELS * composition(null, x[:_FEW], times=_CYCLES)
    result["composition_l1_grey"] = {"1": drift[0].item(), str(_CYCLES): drift[-1].item()}
    if lpips_weights is not None:
        shown = {"1": last[0], str(_CYCLES): last[-1]}
        result["composition_lpips"] = {k: lpips(x[:_FEW], images, lpips_weights).mean().item() for k, images in shown.items()}
    # One attribute for each image, at random, as there.
    which = torch.randint(len(names), (len(x),), generator=generator)
    mixed = torch.stack([found[names[k]][1][i] for i, k in enumerate(which.tolist())])
    distance = FID(training, feature=judges.features)
    result["fid"] = {"counterfactuals": distance(mixed), "test images": distance(x)}
    result["cld"] = latent_divergence(judges, names, kinds, x, labels, found)
    return result


def read_all(judges: Judges, images: Tensor) -> dict[str, Tensor]:
    """What the judges read, by attribute, ``[N]`` each."""
    also = {f"{name}_by_definition": measure(images) for name, measure in judges.also.items()}
    return {name: predict(images) for name, predict in judges.predictors.items()} | also


def agreement(read: Mapping[str, Tensor], names: Sequence[str], kinds: Sequence[int], meant: Tensor) -> dict[str, Any]:
    """What the judges read, against labels: mean absolute errors, accuracies and, of two kinds, F1."""
    result: dict[str, Any] = {}
    for key, values in read.items():
        column = names.index(key.removesuffix("_by_definition"))
        label, k = meant[:, column], kinds[column]
        result[key] = ((values == label).double() if k else (values - label).abs()).mean().item()
        if k == 2:
            result[f"{key}_f1"] = float(f1_score(label.numpy() > 0.5, values.numpy() > 0.5, zero_division=0.0))
    return result


def latent_divergence(
    judges: Judges,
    names: Sequence[str],
    kinds: Sequence[int],
    x: Tensor,
    labels: Tensor,
    found: Mapping[str, tuple[Tensor, Tensor, Tensor]],
) -> dict[str, float]:
    """CLD of each attribute's interventions, and their mean; that of the images left alone beside it."""
    x, labels = x[:_PAIRS], labels[:_PAIRS]
    own, result = judges.posterior(x), {}
    for column, name in enumerate(names):
        values, images, _ = (part[:_PAIRS] for part in found[name])
        before = labels[:, column].contiguous()
        if kinds[column]:
            before, values = before.long(), values.long()
        result[name] = minimality(own, judges.posterior(images), before, values, distance=gaussian_kl)
        result[f"{name}, left alone"] = minimality(own, own, before, values, distance=gaussian_kl)
    return {"mean": sum(result[name] for name in names) / len(names), **result}
