"""Structural causal models with additive noise on tables of values: the truth behind the simulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from causalvae_pyro.graph import CausalGraph, GraphLike, as_graph
from causalvae_pyro.utils.numbers import number_tensor

__all__ = ["SyntheticSCM", "abduct_noise", "check_do", "complete", "counterfactual_values"]

#: From a child's name and its parents' values, each ``[N]``, to the child's value at zero noise, ``[N]``.
Mechanism = Callable[[str, Mapping[str, Tensor]], Tensor]


def complete(graph: CausalGraph, mechanism: Mechanism, table: Tensor) -> Tensor:
    """Values of all variables from a table ``[N, n]`` that holds the roots' values and the children's additive noise."""
    values = table.clone()
    for name in graph.order:
        if graph.parents(name):
            values[:, graph.index(name)] += _predict(graph, mechanism, name, values)
    return values


def abduct_noise(graph: CausalGraph, mechanism: Mechanism, values: Tensor) -> Tensor:
    """The inverse of :func:`complete`."""
    table = values.clone()
    for name in graph.children:
        table[:, graph.index(name)] -= _predict(graph, mechanism, name, values)
    return table


def counterfactual_values(graph: CausalGraph, mechanism: Mechanism, values: Tensor, do: Mapping[str, float | Tensor]) -> Tensor:
    """The values had ``do`` been so, with every variable's noise kept; variables that ``do`` does not reach stay to the bit."""
    check_do(graph, do, len(values))
    table = abduct_noise(graph, mechanism, values)
    result = values.clone()
    touched = {descendant for name in do for descendant in graph.descendants(name)}
    for name in graph.order:
        column = graph.index(name)
        if name in do:
            result[:, column] = torch.as_tensor(do[name], dtype=values.dtype, device=values.device)
        elif name in touched:
            result[:, column] = _predict(graph, mechanism, name, result) + table[:, column]
    return result


def check_do(graph: CausalGraph, do: Mapping[str, float | Tensor], count: int) -> None:
    """Raises ``ValueError`` unless every intervention names a variable and holds a finite number or ``count`` of them."""
    for name, value in do.items():
        if name not in graph.names:
            raise ValueError(f"do: unknown concept {name!r}; known: {list(graph.names)}")
        value = number_tensor(value)
        if value.shape not in ((), (count,)):
            raise ValueError(f"do[{name!r}]: expected a number or shape ({count},), got shape {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"do[{name!r}]: got a value that is not finite")


class SyntheticSCM:
    """A structural causal model over any number of variables, with known truth: for identifiability and discovery tests.

    Each root is Gaussian, each child ``g(parents) + noise``, the noise Gaussian.

    Args:
        graph: The causal graph.
        mechanisms: For each child a function from its parents' values, a mapping of ``[N]`` tensors, to ``[N]``.
        noise_std: Standard deviation of the roots and of the children's noise: one number or one per variable.

    Raises:
        ValueError: If a child has no mechanism, a root or an unknown variable has one, or a standard deviation is negative.

    Example:
        >>> graph = CausalGraph(["a", "b"], [("a", "b")])
        >>> scm = SyntheticSCM(graph, {"b": lambda parents: parents["a"] ** 2}, noise_std=0.1)
        >>> values = scm.sample(5, seed=0)
        >>> scm.counterfactual(values, {"a": 0.0}).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        graph: GraphLike,
        mechanisms: Mapping[str, Callable[[Mapping[str, Tensor]], Tensor]],
        noise_std: float | Mapping[str, float] = 1.0,
    ) -> None:
        graph = as_graph(graph)
        missing, extra = set(graph.children) - set(mechanisms), set(mechanisms) - set(graph.children)
        if missing or extra:
            expected = f"expected one for each of {list(graph.children)}"
            raise ValueError(f"mechanisms: {expected}; missing: {sorted(missing)}, too many: {sorted(extra)}")
        stds = dict.fromkeys(graph.names, float(noise_std)) if isinstance(noise_std, (int, float)) else dict(noise_std)
        if set(stds) != set(graph.names) or not all(0 <= std < float("inf") for std in stds.values()):
            raise ValueError(f"noise_std: got {noise_std}; expected a finite number >= 0, or one for each of {list(graph.names)}")
        self.graph, self.mechanisms = graph, dict(mechanisms)
        self.noise_std = torch.tensor([stds[name] for name in graph.names], dtype=torch.float64)

    def sample(self, num_samples: int, *, seed: int = 0) -> Tensor:
        """Samples the observational distribution, ``[num_samples, n]`` float64."""
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(num_samples, len(self.graph), generator=generator, dtype=torch.float64)
        return complete(self.graph, self._mechanism, draws * self.noise_std)

    def intervene(self, num_samples: int, do: Mapping[str, float | Tensor], *, seed: int = 0) -> Tensor:
        """Samples the interventional distribution, ``[num_samples, n]``; the same noise as :meth:`sample` with this seed."""
        return self.counterfactual(self.sample(num_samples, seed=seed), do)

    def counterfactual(self, values: Tensor, do: Mapping[str, float | Tensor]) -> Tensor:
        """The true counterfactual of values ``[N, n]``: noise abducted, ``do`` set, descendants recomputed."""
        if values.ndim != 2 or values.shape[1] != len(self.graph):
            raise ValueError(f"values: expected shape [N, {len(self.graph)}], got {list(values.shape)}")
        return counterfactual_values(self.graph, self._mechanism, values, do)

    def _mechanism(self, name: str, parents: Mapping[str, Tensor]) -> Tensor:
        return self.mechanisms[name](parents)


def _predict(graph: CausalGraph, mechanism: Mechanism, name: str, values: Tensor) -> Tensor:
    return mechanism(name, {parent: values[:, graph.index(parent)] for parent in graph.parents(name)})
