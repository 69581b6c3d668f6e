"""The causal layer: from independent exogenous noise to causally related concepts, one `do`-able site per concept."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.distributions import Distribution, TransformedDistribution, constraints
from torch.distributions.transforms import Transform

from causalvae_pyro.distributions import mean_of
from causalvae_pyro.graph import GraphLike, as_graph
from causalvae_pyro.scm.indexing import take
from causalvae_pyro.scm.pairing import ANOTHER_LAYER
from causalvae_pyro.scm.sites import as_given, computed_from, warn_if_conditioned
from causalvae_pyro.utils.compat import deterministic_infer, random_attributes, version_of
from causalvae_pyro.utils.configurable import Configurable

__all__ = ["AdditiveNoiseLayer", "CausalLayer", "CausalTransform", "endogenous_base"]


class CausalLayer(Configurable, nn.Module):
    """A structural causal model ``z = f(eps)`` over ``n`` concepts of ``dim`` dimensions each.

    Concepts are computed level by level (all parents of a level lie in earlier levels), and each one is emitted as a
    :func:`pyro.deterministic` site in topological order, so that ``poutine.do`` reaches every descendant. The site's ``infer``
    tells handlers what the value was computed from: ``_parents``, the parents' values with every intervention in effect, and
    ``_noise``, the concept's own noise; :func:`~causalvae_pyro.interventions.handlers.soft_do` reads them.

    Args:
        graph: The causal graph, in any form of :func:`~causalvae_pyro.graph.as_graph`; it decides which parents each mechanism
            can see.
        dim: Dimensions ``d`` of each concept.

    Subclasses define :meth:`solve_level`, :meth:`means`, :meth:`to_exogenous` and :meth:`log_abs_det_jacobian`.
    """

    mask: Tensor
    place: Tensor

    def __init__(self, graph: GraphLike, dim: int = 1) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: got {dim}; each concept needs at least one dimension")
        graph = as_graph(graph)
        if "graph" in self.init_args:
            # A checkpoint keeps the graph, not the file or the like that it came from.
            self.init_args["graph"] = graph
        self.graph, self.dim = graph, dim
        self._levels = [[graph.index(name) for name in level] for level in graph.levels]
        self._restore = [graph.order.index(name) for name in graph.names]
        self._inverted: tuple[Any, ...] | None = None
        self._parents = [[graph.index(parent) for parent in graph.parents(name)] for name in graph.names]
        self.register_buffer("mask", graph.adjacency, persistent=False)
        self.register_buffer("place", torch.tensor(self._restore), persistent=False)

    @abstractmethod
    def solve_level(self, level: list[int], eps: Tensor, z: Tensor) -> Tensor:
        """Computes the concepts of one level.

        Args:
            level: Indices of the level's ``m`` concepts.
            eps: Their exogenous noise ``[..., m, d]``.
            z: ``[..., n, d]``, zero where a concept is not computed yet; all parents of the level are.

        Returns:
            The concepts ``[..., m, d]``.
        """

    @abstractmethod
    def to_exogenous(self, z: Tensor) -> Tensor:
        """The inverse ``eps = f^-1(z)``, ``[..., n, d]`` to ``[..., n, d]``."""

    def settled(self, z: Tensor) -> Tensor:
        """What an image whose concepts are read as ``z [..., n, d]`` is taken to have: of concepts that are of kinds, one kind.

        Abduction at the posterior mean goes by it: read between two kinds, an image would lie on the threshold, and any change of
        a cause would tip it over.
        """
        return z

    @abstractmethod
    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        """``log |det df/deps|`` at ``eps``, ``[...]``."""

    @abstractmethod
    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        """Each concept's value at zero noise given its parents in ``z``.

        Args:
            z: ``[..., n, d]``.
            concepts: Indices of the ``m`` concepts wanted; all by default.

        Returns:
            ``[..., m, d]``.
        """

    def forward(self, eps: Tensor) -> Tensor:
        """Runs the causal model as a Pyro program.

        Args:
            eps: ``[..., n, d]``.

        Returns:
            ``z [..., n, d]`` with every intervention of the surrounding handlers in effect.

        Raises:
            ValueError: If an intervention's value does not broadcast to ``[..., d]``.
        """
        return self._solve(eps, emit=True)

    def to_endogenous(self, eps: Tensor) -> Tensor:
        """``z = f(eps)`` without any sites, ``[..., n, d]`` to ``[..., n, d]``."""
        return self._solve(eps, emit=False)

    def sensitivity(self, z: Tensor) -> Tensor:
        """How strongly each edge acts: the mean of ``|d m_i / d z_j|`` over a batch, ``m_i`` the value at zero noise.

        An edge through which only the noise's scale or shape changes, as it may in a flow, shows 0.

        Args:
            z: Concepts ``[..., n, d]`` to average over.

        Returns:
            ``[n, n]``, entry ``[j, i]`` for the edge ``j -> i``; 0 off the graph.
        """
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            means = self._centres(z)
            # One gradient per output: summing a concept's dimensions first would let them cancel.
            gradients = [
                torch.stack([torch.autograd.grad(means[..., i, k].sum(), z, retain_graph=True)[0] for k in range(self.dim)])
                for i in range(len(self.graph))
            ]
        return torch.stack([g.abs().reshape(-1, len(self.graph), self.dim).mean((0, -1)) for g in gradients], -1)

    def _centres(self, z: Tensor) -> Tensor:
        """What the strength of an edge is measured on, ``[..., n, d]`` to ``[..., n, d]``."""
        return self.means(z)

    def remember(self, eps: Tensor, z: Tensor) -> None:
        """Notes that ``eps`` is ``f^-1(z)``, so that training the model on a guide's sample need not solve for ``z`` again.

        It holds while both tensors live, gradients are recorded and no parameter of the layer changes. Worth it where launching
        operations is what takes the time, as on a GPU; docs/training.md has the figures.
        """
        self._inverted = weakref.ref(eps), weakref.ref(z), self._versions()

    def _solution(self, eps: Tensor) -> Tensor | None:
        # For training: worlds that are compared with each other take the same path through all of the layer.
        if self._inverted is None or not torch.is_grad_enabled():
            return None
        known, z, versions = self._inverted
        return z() if known() is eps and versions == self._versions() else None

    def _versions(self) -> list[int]:
        return [version_of(parameter) for parameter in self.parameters()]

    def __getstate__(self) -> dict[str, Any]:
        # Weak references cannot be pickled.
        return {**self.__dict__, "_inverted": None}

    def _solve(self, eps: Tensor, emit: bool) -> Tensor:
        self._check_shape("eps", eps)
        known = self._solution(eps)
        if known is not None and not emit:
            return known
        blocks: list[Tensor] = []
        columns: dict[int, Tensor] = {}
        for level in self._levels:
            if known is None:
                values = self.solve_level(level, take(eps, level, -2), self._assemble(blocks, eps))
            else:
                values = take(known, level, -2)
            blocks.append(self._emit(level, values, eps, columns) if emit else values)
            if blocks[-1] is not values:
                # An intervention: what comes after it is not known any more.
                known = None
        return self._assemble(blocks, eps) if known is None else known

    def _emit(self, level: list[int], values: Tensor, eps: Tensor, columns: dict[int, Tensor]) -> Tensor:
        """One site per concept of a level; returns the level with every intervention in effect and notes its ``columns``."""
        natural, replaced = values.unbind(-2), False
        for position, index in enumerate(level):
            parents = {self.graph.names[j]: columns[j] for j in self._parents[index]}
            value = self._site(self.graph.names[index], natural[position], parents, eps[..., index, :])
            replaced = replaced or value is not natural[position]
            columns[index] = value
        # Interventions may add leading dimensions to some concepts only.
        return torch.stack(torch.broadcast_tensors(*(columns[index] for index in level)), -2) if replaced else values

    def _assemble(self, blocks: list[Tensor], like: Tensor) -> Tensor:
        """The levels computed so far, one block each, in index order, with zeros for the rest."""
        missing = len(self.graph) - sum(block.shape[-2] for block in blocks)
        if blocks and any(block.shape[:-2] != blocks[0].shape[:-2] for block in blocks):
            shape = torch.broadcast_shapes(*(block.shape[:-2] for block in blocks))
            blocks = [block.expand(*shape, *block.shape[-2:]) for block in blocks]
        if missing:
            first = blocks[0] if blocks else like
            blocks = [*blocks, first.new_zeros(*first.shape[:-2], missing, self.dim)]
        return torch.cat(blocks, -2).index_select(-2, self.place)

    def _site(self, name: str, natural: Tensor, parents: dict[str, Tensor], noise: Tensor) -> Tensor:
        if not am_i_wrapped():
            return natural
        natural = computed_from(natural, noise, *parents.values())
        # What pyro.deterministic does, which takes no infer of its own.
        delta = dist.Delta(natural, event_dim=1).mask(False)
        value = pyro.sample(name, delta, obs=natural, infer=deterministic_infer(_parents=parents, _noise=noise))
        warn_if_conditioned(name, value, natural)
        return as_given(name, value, natural, event_dim=1)

    def _check_shape(self, argument: str, value: Tensor) -> None:
        expected = (len(self.graph), self.dim)
        if tuple(value.shape[-2:]) != expected:
            raise ValueError(f"{argument}: expected shape [..., {expected[0]}, {expected[1]}], got {list(value.shape)}")
        # Weights made under another default than the graph was are of another precision than its mask, and mix with it.
        known = {parameter.dtype for parameter in self.parameters()} or {value.dtype}
        if value.dtype not in known:
            expected_dtype = " or ".join(sorted(map(str, known)))
            raise ValueError(f"{argument}: expected {expected_dtype}, as the layer has it, got {value.dtype}")


class AdditiveNoiseLayer(CausalLayer):
    """Layers of the form ``z_i = m_i(parents) + s_i eps_i`` with one scale ``s_i`` per concept.

    Args:
        graph: See :class:`CausalLayer`.
        dim: See :class:`CausalLayer`.
        learn_noise: Learn ``s_i > 0`` (starting at 1); otherwise ``s_i = 1`` as in the paper.
        min_noise: Floor of the learned scales; deterministic children would drive them to zero.
    """

    def __init__(self, graph: GraphLike, dim: int = 1, *, learn_noise: bool = False, min_noise: float = 1e-2) -> None:
        super().__init__(graph, dim)
        self.init_noise(learn_noise, min_noise)

    def init_noise(self, learn_noise: bool, min_noise: float) -> None:
        """Makes the scales."""
        if not 0 < min_noise < 1:
            raise ValueError(f"min_noise: got {min_noise}; must lie in (0, 1)")
        self.min_noise = min_noise
        self.log_noise = nn.Parameter(torch.zeros(len(self.graph))) if learn_noise else None

    @property
    def noise_scale(self) -> Tensor:
        """The scales ``s``, ``[n]``."""
        if self.log_noise is None:
            return self.mask.new_ones(len(self.graph))
        return self.min_noise + (1 - self.min_noise) * self.log_noise.exp()

    def solve_level(self, level: list[int], eps: Tensor, z: Tensor) -> Tensor:
        noise = eps if self.log_noise is None else eps * take(self.noise_scale, level)[:, None]
        # The first level holds the roots, and no later level holds any.
        return noise if level is self._levels[0] else self.means(z, level) + noise

    def to_exogenous(self, z: Tensor) -> Tensor:
        self._check_shape("z", z)
        residual = z - self.means(z)
        return residual if self.log_noise is None else residual / self.noise_scale[:, None]

    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        total = self.dim * self.noise_scale.log().sum()
        return total.expand(eps.shape[:-2])

    def log_slopes(self, eps: Tensor, z: Tensor) -> Tensor:
        """Each concept's own part of :meth:`log_abs_det_jacobian`, ``[..., n]``."""
        return (self.dim * self.noise_scale.log()).expand(eps.shape[:-1])


class CausalTransform(Transform):
    """A causal layer as a torch transform from ``eps`` to ``z``; its inverse pushes a guide over ``z`` back to ``eps``."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.independent(constraints.real, 2)
    bijective = True

    def __init__(self, scm: CausalLayer) -> None:
        # The cache makes log_prob of a fresh sample free of a second solve.
        super().__init__(cache_size=1)
        if random := [name for _, name in random_attributes(scm)]:
            # The guide would draw them on its own, from their prior.
            raise ValueError(f"scm: its {random} are random; must be parameters for a guide over z: use one over eps instead")
        self.scm = scm

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalTransform) and self.scm is other.scm

    def __hash__(self) -> int:
        return id(self.scm)

    def with_cache(self, cache_size: int = 1) -> CausalTransform:
        return self

    def _call(self, eps: Tensor) -> Tensor:
        return self.scm.to_endogenous(eps)

    def _inverse(self, z: Tensor) -> Tensor:
        eps = self.scm.to_exogenous(z)
        self.scm.remember(eps, z)
        return eps

    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        return self.scm.log_abs_det_jacobian(eps, z)


def exogenous_mean(q: Any) -> Tensor:
    """The mean of ``q(eps)``; of a guide over ``z`` the noise of its mean, settled."""
    if isinstance(q, TransformedDistribution) and len(q.transforms) == 1 and isinstance(q.transforms[0].inv, CausalTransform):
        return q.transforms[0](q.transforms[0].inv.scm.settled(mean_of(q.base_dist)))
    return mean_of(q)


def endogenous_base(q: Distribution, scm: Any) -> Distribution | None:
    """``q(z)`` where ``q(eps)`` is its image under the inverse of this causal layer, else ``None``.

    Raises:
        ValueError: If it is its image under the inverse of another layer: a guide of another model.
    """
    if isinstance(q, TransformedDistribution) and len(q.transforms) == 1:
        forward = q.transforms[0].inv
        if isinstance(forward, CausalTransform):
            if forward.scm is not scm:
                raise ValueError(ANOTHER_LAYER)
            return q.base_dist
    return None
