"""What wrappers round a guide have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
from torch import Tensor, nn

from causalvae_pyro.guides.base import PosteriorGuide
from causalvae_pyro.scm import CausalTransform
from causalvae_pyro.scm.base import endogenous_base
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["GuideWrapper"]


class GuideWrapper(Configurable, PosteriorGuide):
    """Base class: a guide that changes another guide's ``q(z | x, u)`` with the help of the model.

    Args:
        guide: A guide over ``z``: a module whose ``posterior(x, labels)`` gives a distribution of ``eps`` that is one of ``z``,
            mapped back by the model's causal layer, such as ``AmortizedGuide(encoder, model.scm)`` or another wrapper. It is a
            submodule: its parameters are trained and saved with the wrapper.
        model: The :class:`~causalvae_pyro.CausalVAE`. It is no submodule: its parameters are not the guide's.

    Raises:
        TypeError: If the guide is no module with a ``posterior``, or one over ``eps``.

    Subclasses define :meth:`posterior`.
    """

    def __init__(self, guide: nn.Module, model: Any) -> None:
        super().__init__()
        if not (isinstance(guide, nn.Module) and callable(getattr(guide, "posterior", None))):
            raise TypeError(f"guide: got {type(guide).__name__}; must be a module with posterior(x, labels)")
        if getattr(guide, "scm", model.scm) is None:
            raise TypeError(
                f"guide: got one over eps; must be a guide over z, such as {type(guide).__name__}(encoder, model.scm)"
            )
        # In a list, so that Pyro does not rename the guide, which may have run before: it refuses that for nested modules.
        self.wrapped = nn.ModuleList([guide])
        # In a tuple, so that the model is not registered as a submodule.
        self._model: tuple[Any] = (model,)

    @property
    def guide(self) -> Any:
        """The wrapped guide."""
        return self.wrapped[0]

    @property
    def model(self) -> Any:
        """The model."""
        return self._model[0]

    @property
    def plate(self) -> str:  # type: ignore[override]
        """The wrapped guide's."""
        return getattr(self.guide, "plate", "data")

    @property
    def scm(self) -> Any:
        """The model's causal layer."""
        return self.model.scm

    def noise_posterior(self, x: Tensor, z: Tensor) -> Any | None:
        given = getattr(self.guide, "noise_posterior", None)
        return None if given is None else given(x, z)

    def _corrected(self, posterior: dict[str, Any], q: Any, x: Tensor) -> dict[str, Any]:
        """A posterior with another distribution of ``z``, and the noise that explains the image with it."""
        noise = self.noise_posterior(x, q.mean) if "eps_x" in posterior else None
        return posterior | {"eps": self._exogenous(q)} | ({} if noise is None else {"eps_x": noise})

    def _endogenous(self, posterior: dict[str, Any]) -> Any:
        """``q(z | x, u)`` of the wrapped guide's posterior."""
        q = endogenous_base(posterior["eps"], self.scm)
        if q is None:
            name = type(posterior["eps"]).__name__
            raise TypeError(f"guide: its posterior of eps is {name}; must be one of z mapped back by the model's causal layer")
        return q

    def _exogenous(self, q: Any) -> Any:
        """``q(eps | x, u)`` of a distribution of ``z``."""
        return dist.TransformedDistribution(q, [CausalTransform(self.scm).inv])

    @contextmanager
    def _running_model(self) -> Iterator[Any]:
        """The model in evaluation mode, whose parameters are no statements of the guide."""
        with evaluation_mode(self.model), local_params(self.model), poutine.block():
            yield self.model
