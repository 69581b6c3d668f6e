"""Stage one: the graph from the labels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.discovery.acyclicity import exponential_acyclicity
from causalvae_pyro.discovery.candidates import Candidates, NetworkCandidates
from causalvae_pyro.discovery.independence import MAX_CONCEPTS, independent_graph
from causalvae_pyro.discovery.lagrangian import AugmentedLagrangian
from causalvae_pyro.discovery.local import LocalFits, climb, penalised_score, standardise
from causalvae_pyro.discovery.scores import gaussian_score
from causalvae_pyro.discovery.threshold import to_dag
from causalvae_pyro.graph import CausalGraph, GraphLike, as_graph
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["Discovery", "discover_graph", "refine_graph"]


@dataclass
class Discovery:
    """What :func:`discover_graph` found.

    Attributes:
        graph: The graph, refined unless that was turned off.
        continuous: The graph of the augmented Lagrangian alone.
        strengths: ``[n, n]``, its strengths ``A`` before thresholding.
        candidates: The trained mechanisms, to go on with in :class:`~causalvae_pyro.discovery.GraphSearch`.
        lagrangian: The constraint's state at the end.
        history: A row per round: ``round``, ``score``, ``acyclicity``, ``multiplier``, ``penalty``.
        snapshots: ``A`` after each round, ``[rounds, n, n]``.
    """

    graph: CausalGraph
    continuous: CausalGraph
    strengths: Tensor
    candidates: Candidates
    lagrangian: AugmentedLagrangian
    history: list[dict[str, float]] = field(default_factory=list)
    snapshots: Tensor = field(default_factory=lambda: torch.zeros(0))


@torch.inference_mode(False)
def discover_graph(
    labels: Tensor,
    names: Sequence[str],
    *,
    allowed: Tensor | None = None,
    candidates: Candidates | None = None,
    score: Callable[[Tensor], Tensor] = gaussian_score,
    acyclicity: Callable[[Tensor], Tensor] = exponential_acyclicity,
    sparsity: float = 0.02,
    shrinkage: float = 2e-3,
    unit: float = 0.3,
    threshold: float = 0.05,
    rounds: int = 12,
    steps: int = 300,
    lr: float = 1e-2,
    max_samples: int = 2000,
    refine: bool = True,
    seed: int = 0,
    kinds: Mapping[str, Any] | None = None,
) -> Discovery:
    """Finds the graph by ``min_A l_u(A) + sparsity |A|_1`` subject to ``H(A) = 0``, and refines it.

    The labels are standardised, so that neither their units nor the growth of variance along the graph carry the answer.
    ``l_u`` is the sum of ``score`` over the residuals of all concepts, each given all the others through ``A``; the
    constraint is kept by an augmented Lagrangian. ``A`` starts at zero. Strengths up to ``threshold`` are dropped, and the
    weakest edges that close a cycle, so that the result is a DAG.

    Such descents end in local optima (docs/discovery.md has the figures), so the graph is refined by comparing graphs
    on samples that their regressions have not seen: all of them by :func:`independent_graph` with up to 5 concepts, else
    those met by :func:`climb` from the graph found and from the empty one.

    Args:
        labels: ``[N, n]``, finite, at least 20 rows and no constant column.
        names: One per concept.
        allowed: ``[n, n]``, which edges may be used, see :func:`allowed_edges`; by default those of ``candidates``, or all.
        candidates: The mechanisms, of one dimension, trained in place; :class:`NetworkCandidates` by default.
        score: From residuals ``[N, n]`` to scores ``[n]``, smaller being better; for the descent and :func:`climb`.
        acyclicity: ``H``, a function of ``[n, n]`` strengths: :mod:`causalvae_pyro.discovery.acyclicity` has three.
        sparsity: Weight of the strengths' sum, >= 0.
        shrinkage: Weight of the squared weights, >= 0; see :meth:`Candidates.shrinkage`.
        unit: Strengths are divided by it inside ``H``, > 0; one that size counts in full.
        threshold: Strengths up to this are dropped, >= 0.
        rounds: Updates of the multiplier; the second half ends early where the graph is acyclic.
        steps: Steps of Adam per round.
        lr: Learning rate, falling towards a tenth of it over the rounds.
        max_samples: The descent uses so many samples at most.
        refine: Whether to refine.
        seed: Fixes the samples, the initial weights and the refinement; torch's global state is left as it was.
        kinds: Of the data set, its ``kinds``: which concepts are categories. They are refused, since regressions would take the
            numbers of their kinds for quantities.

    Raises:
        ValueError: If labels or an argument are malformed, or a concept is a category.

    Source: Yang et al. 2021, section 4.2 (two stages); Zheng et al. 2018, 2020 (augmented Lagrangian, group norms).
    """
    if categories := [name for name in names if name in (kinds or {})]:
        raise ValueError(f"kinds: got {categories[0]!r}, a category, which discovery takes for a number; leave its column out")
    data = standardise(labels)
    n = data.shape[1]
    _check_columns(CausalGraph(names), n)
    for argument, value in (("sparsity", sparsity), ("shrinkage", shrinkage), ("threshold", threshold)):
        if not value >= 0:
            raise ValueError(f"{argument}: got {value}; must be >= 0")
    for argument, value in (("unit", unit), ("lr", lr)):
        if not value > 0:
            raise ValueError(f"{argument}: got {value}; must be > 0")
    for argument, value in (("rounds", rounds), ("steps", steps), ("max_samples", max_samples)):
        if value < 1:
            raise ValueError(f"{argument}: got {value}; must be at least 1")
    if candidates is not None:
        if candidates.allowed.shape != (n, n) or candidates.dim != 1:
            size = len(candidates.allowed)
            raise ValueError(f"candidates: got {size} concepts of dim {candidates.dim}; must be {n} of dim 1, one per column")
        allowed = candidates.allowed if allowed is None else allowed
    allowed = _as_allowed(allowed, n)
    if candidates is not None and bool((candidates.allowed > allowed).any()):
        raise ValueError("candidates: their own edges go beyond allowed")
    with kept_rng_state():
        # The CPU's alone: torch.manual_seed would leave another state on the GPUs.
        torch.default_generator.manual_seed(seed)
        candidates = NetworkCandidates(allowed) if candidates is None else candidates
        x = data[torch.randperm(n=len(data))[:max_samples]]
        lagrangian = AugmentedLagrangian()
        optimizer = torch.optim.Adam(candidates.parameters(), lr=lr, betas=(0.9, 0.99))
        history: list[dict[str, float]] = []
        snapshots: list[Tensor] = []
        for number in range(1, rounds + 1):
            optimizer.param_groups[0]["lr"] = lr * (1 - 0.9 * (number - 1) / rounds)
            for _ in range(steps):
                strengths = candidates.strengths()
                total = score(x - candidates(x[..., None])[..., 0]).sum()
                penalties = sparsity * strengths.sum() + shrinkage * candidates.shrinkage()
                loss = total + penalties + lagrangian(acyclicity(strengths / unit))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            strengths = candidates.strengths().detach()
            h = acyclicity(strengths / unit).item()
            done = lagrangian.update(h)
            snapshots.append(strengths)
            history.append(
                {
                    "round": number,
                    "score": total.item(),
                    "acyclicity": h,
                    "multiplier": lagrangian.multiplier.item(),
                    "penalty": lagrangian.penalty.item(),
                }
            )
            if done and number > rounds // 2:
                break
    found = to_dag(strengths, threshold)
    continuous = CausalGraph.from_adjacency(names, found)
    graph = refine_graph(data, continuous, allowed=allowed, score=score, seed=seed) if refine else continuous
    return Discovery(graph, continuous, strengths, candidates, lagrangian, history, torch.stack(snapshots))


@torch.inference_mode(False)
def refine_graph(
    labels: Tensor,
    graph: GraphLike,
    *,
    allowed: Tensor | None = None,
    score: Callable[[Tensor], Tensor] = gaussian_score,
    edge_penalty: float | None = None,
    seed: int = 0,
) -> CausalGraph:
    """Compares graphs on held-out samples: all of them with up to 5 concepts, else those met on two climbs.

    The climbs start from ``graph`` and from the empty graph; the better end is taken.

    Args:
        labels: ``[N, n]``; or concepts that an encoder reads from images.
        graph: Where one climb starts; its names.
        allowed: ``[n, n]``, which edges may be used, see :func:`allowed_edges`; all by default.
        score: Of the climb, see :func:`climb`.
        edge_penalty: What an edge must gain; 0.01 of dependence, or 0.02 nats on a climb, by default.
        seed: See :class:`LocalFits`.

    Raises:
        ValueError: If labels or an argument are malformed.
    """
    graph = as_graph(graph)
    n = len(graph)
    fits = LocalFits(labels, seed=seed) if n <= MAX_CONCEPTS else LocalFits(labels, hidden=32, steps=400, seed=seed)
    _check_columns(graph, fits.train.shape[1])
    allowed = _as_allowed(allowed, n)
    options: dict[str, Any] = {} if edge_penalty is None else {"edge_penalty": edge_penalty}
    if n <= MAX_CONCEPTS:
        found = independent_graph(fits, allowed, **options)
    else:
        # Climbs end in local optima too; two starts, and the better end.
        starts = (graph.adjacency, torch.zeros(n, n))
        ends = [climb(fits, start, allowed, score=score, **options) for start in starts]
        found = min(ends, key=lambda end: penalised_score(fits, end, score=score, **options))
    return CausalGraph.from_adjacency(graph.names, found)


def _check_columns(graph: CausalGraph, columns: int) -> None:
    if len(graph) != columns:
        raise ValueError(f"names: got {len(graph)} for {columns} columns of labels")


def _as_allowed(allowed: Tensor | None, n: int) -> Tensor:
    allowed = torch.ones(n, n) if allowed is None else (torch.as_tensor(allowed) != 0).float().cpu()
    if allowed.shape != (n, n):
        raise ValueError(f"allowed: expected shape {[n, n]}, got {list(allowed.shape)}")
    return allowed.clone().fill_diagonal_(0)
