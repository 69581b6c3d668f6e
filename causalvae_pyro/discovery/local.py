"""Families scored by themselves: one regression per concept and set of parents, many at once, and a climb over graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import networkx as nx
import torch
from torch import Tensor, nn

from causalvae_pyro.discovery.scores import gaussian_score

__all__ = ["Family", "LocalFits", "climb", "penalised_score"]

#: A concept and its parents, as indices.
Family = tuple[int, frozenset[int]]

#: Fewer samples leave too few on one side of the split.
MIN_SAMPLES = 20

# Networks trained in one batched product; more take memory, not less time.
_AT_ONCE = 256


class LocalFits:
    """Residuals of every family asked for, on samples that its regression has not seen.

    A family's regression is linear plus a network with two hidden layers, trained by least squares. The mean given the parents
    is what an additive noise model's mechanism is, whatever its noise.

    Args:
        data: ``[N, n]``, one column per concept; it is standardised here.
        hidden: Width of the hidden layers.
        steps: Steps of AdamW for each regression.
        batch_size: Samples per step.
        lr: Peak learning rate, in a cosine schedule.
        holdout: Share of the samples kept for the residuals, in (0, 1).
        seed: Fixes the split, the initial weights and the batches.

    Raises:
        ValueError: If the data hold NaN, a constant column or fewer than 20 samples, or a side of the split fewer than 8.
    """

    def __init__(
        self,
        data: Tensor,
        *,
        hidden: int = 64,
        steps: int = 800,
        batch_size: int = 512,
        lr: float = 1e-2,
        holdout: float = 0.4,
        seed: int = 0,
    ) -> None:
        if not 0 < holdout < 1:
            raise ValueError(f"holdout: got {holdout}; must lie in (0, 1)")
        data = standardise(data)
        self.generator = torch.Generator().manual_seed(seed)
        data = data[torch.randperm(len(data), generator=self.generator)]
        cut = round((1 - holdout) * len(data))
        if min(cut, len(data) - cut) < 8:
            raise ValueError(f"holdout: {holdout} splits {len(data)} samples into {cut} and {len(data) - cut}; needs 8 of each")
        self.train, self.test = data[:cut], data[cut:]
        self.hidden, self.steps, self.batch_size, self.lr = hidden, steps, min(batch_size, cut), lr
        self._cache: dict[Family, Tensor] = {}

    def residuals(self, families: Iterable[Family]) -> Tensor:
        """Residuals ``[N_test, k]`` of ``k`` families, in units of the concepts' standard deviations."""
        families = list(families)
        missing = [family for family in dict.fromkeys(families) if family not in self._cache]
        for start in range(0, len(missing), _AT_ONCE):
            chunk = missing[start : start + _AT_ONCE]
            self._cache |= dict(zip(chunk, self._fit(chunk).unbind(1), strict=True))
        return torch.stack([self._cache[family] for family in families], 1)

    @torch.inference_mode(False)
    def _fit(self, families: list[Family]) -> Tensor:
        count, n, hidden = len(families), self.train.shape[1], self.hidden

        def normal(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(shape, generator=self.generator))

        mask = torch.zeros(count, n, 1)
        for k, (_, parents) in enumerate(families):
            mask[k, list(parents)] = 1
        first, first_bias = normal(count, n, hidden, scale=0.7), normal(count, 1, hidden, scale=1.0)
        second = normal(count, hidden, hidden, scale=1 / math.sqrt(hidden))
        second_bias, last = nn.Parameter(torch.zeros(count, 1, hidden)), nn.Parameter(torch.zeros(count, hidden, 1))
        last_bias, skip = nn.Parameter(torch.zeros(count, 1, 1)), nn.Parameter(torch.zeros(count, n, 1))
        optimizer = torch.optim.AdamW(
            [first, first_bias, second, second_bias, last, last_bias, skip], lr=self.lr, weight_decay=1e-4
        )
        concepts = [concept for concept, _ in families]

        def errors(x: Tensor) -> Tensor:
            inputs = x.expand(count, -1, -1)
            h = torch.relu(torch.baddbmm(first_bias, inputs, first * mask))
            h = torch.relu(torch.baddbmm(second_bias, h, second))
            means = torch.baddbmm(last_bias, h, last) + inputs @ (skip * mask)
            return x[:, concepts] - means[..., 0].T

        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            index = torch.randint(len(self.train), (self.batch_size,), generator=self.generator)
            loss = errors(self.train[index]).square().mean(0).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return torch.cat([errors(part) for part in self.test.split(1024)])


def climb(
    fits: LocalFits,
    start: Tensor,
    allowed: Tensor,
    *,
    score: Callable[[Tensor], Tensor] = gaussian_score,
    edge_penalty: float = 0.02,
    max_moves: int = 200,
) -> Tensor:
    """Improves a DAG by single additions, removals and reversals of edges, the best first, until none helps.

    Args:
        fits: The families' residuals.
        start: ``[n, n]``, nonzero entries a DAG within ``allowed``.
        allowed: ``[n, n]``, nonzero where an edge may be.
        score: From residuals ``[N, k]`` to scores ``[k]`` in nats per sample, smaller being better.
        edge_penalty: What an edge must gain, in nats per sample.
        max_moves: Stop after so many.

    Returns:
        ``[n, n]`` of 0 and 1.

    Raises:
        ValueError: If ``start`` has an edge that is not allowed, or a cycle.
    """
    n = len(start)
    graph = nx.DiGraph(start.nonzero().tolist())
    if bool(((start != 0) & (allowed == 0)).any()) or not nx.is_directed_acyclic_graph(graph):
        raise ValueError("start: must be a DAG whose edges are all allowed")
    parents = [frozenset(start[:, i].nonzero().flatten().tolist()) for i in range(n)]
    may = (allowed != 0).tolist()
    values: dict[Family, float] = {}

    def evaluate(families: Iterable[Family]) -> None:
        wanted = [family for family in dict.fromkeys(families) if family not in values]
        if wanted:
            scores = score(fits.residuals(wanted)).tolist()
            values.update({f: s + edge_penalty * len(f[1]) for f, s in zip(wanted, scores, strict=True)})

    for _ in range(max_moves):
        moves = _moves(parents, may)
        evaluate([(i, p) for i, p in enumerate(parents)] + [family for move in moves for family in move])
        gains = [sum(values[i, parents[i]] - values[i, p] for i, p in move) for move in moves]
        best = max(range(len(moves)), key=gains.__getitem__, default=None)
        if best is None or gains[best] <= 1e-9:
            break
        for i, p in moves[best]:
            parents[i] = p
    result = torch.zeros(n, n)
    for i, p in enumerate(parents):
        result[list(p), i] = 1
    return result


def penalised_score(
    fits: LocalFits, graph: Tensor, *, score: Callable[[Tensor], Tensor] = gaussian_score, edge_penalty: float = 0.02
) -> float:
    """The objective of :func:`climb`: the held-out scores of the families of ``graph``, ``[n, n]``, plus the penalty on edges."""
    families = [(i, frozenset(graph[:, i].nonzero().flatten().tolist())) for i in range(len(graph))]
    return float(score(fits.residuals(families)).sum()) + edge_penalty * int((graph != 0).sum())


def standardise(data: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1, float32.

    Raises:
        ValueError: If the data are not a finite table with at least 20 rows and no constant column.
    """
    data = torch.as_tensor(data).detach().double().cpu()
    if data.ndim != 2 or len(data) < MIN_SAMPLES:
        raise ValueError(f"labels: expected shape [N, n] with N >= {MIN_SAMPLES}, got {list(data.shape)}")
    if not bool(torch.isfinite(data).all()):
        row, column = (~torch.isfinite(data)).nonzero()[0].tolist()
        raise ValueError(f"labels: got {data[row, column].item()} in row {row}, column {column}; all labels must be finite")
    # Not from the standard deviation, which rounding keeps above zero.
    constant = data.amax(0) == data.amin(0)
    if bool(constant.any()):
        raise ValueError(f"labels: column {int(constant.nonzero()[0])} is constant; a graph needs every concept to vary")
    return ((data - data.mean(0)) / data.std(0)).float()


def _moves(parents: list[frozenset[int]], may: list[list[float]]) -> list[list[Family]]:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(parents)))
    graph.add_edges_from((j, i) for i, p in enumerate(parents) for j in p)
    reach = {node: nx.descendants(graph, node) for node in graph}
    moves: list[list[Family]] = []
    for i, p in enumerate(parents):
        for j in range(len(parents)):
            if j in p:
                moves.append([(i, p - {j})])
                # Reversing closes a cycle where j reaches i another way too.
                around = any(i in reach[k] for k in graph.successors(j))
                if may[i][j] and not around:
                    moves.append([(i, p - {j}), (j, parents[j] | {i})])
            elif may[j][i] and j != i and j not in reach[i]:
                moves.append([(i, p | {j})])
    return moves
