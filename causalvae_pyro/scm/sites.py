"""The values of sites: what an intervention puts there, and what Pyro takes them to depend on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance, track_provenance
from torch import Tensor

from causalvae_pyro.utils.compat import is_conditioned

__all__ = ["as_given", "check_plate", "computed_from", "observes", "warn_if_conditioned", "without_provenance"]


def check_plate(plate: str, concepts: Iterable[str] = ()) -> None:
    """Refuses a name of the plate over the images that one of the sites has."""
    sites = {"eps", "eps_x", "z", "x", "x_mean", *concepts}
    if not isinstance(plate, str) or not plate or plate in sites:
        raise ValueError(f"plate: got {plate!r}; must be a name that no site has; sites: {sorted(sites)}")


def warn_if_conditioned(name: str, value: Any, natural: Tensor) -> None:
    """Says that ``poutine.condition`` on a concept infers nothing; once, as Python's warnings do, for each concept.

    Putting back the value that it has anyway, as samples of all sites do, is no such thing.
    """
    if value is natural or not is_conditioned(name):
        return
    given = torch.as_tensor(value).to(natural)
    if given.shape[-1:] not in ((), (1,), natural.shape[-1:]) or not torch.allclose(given, natural, atol=1e-5):
        warnings.warn(
            f"condition: the concept {name!r} is computed from eps, so this sets it as do does and infers nothing of its causes;"
            " condition eps, or observe x, for that",
            stacklevel=2,
        )


def observes(distribution: Any, value: Tensor) -> Any:
    """Says that an observed value was computed from others, where Pyro tracks it; else the distribution as it is.

    Pyro takes what is observed for data: without this, ``z`` with labels would have no causes.
    """
    if isinstance(value, ProvenanceTensor):
        log_prob, expand, provenance = distribution.log_prob, distribution.expand, get_provenance(value)
        distribution.log_prob = lambda other: track_provenance(log_prob(other), provenance)
        distribution.expand = lambda *shape: observes(expand(*shape), value)  # plates do it
    return distribution


def without_provenance(value: Tensor, names: Iterable[str]) -> Tensor:
    """The value, where Pyro tracks it without a direct dependence on these sites."""
    if not isinstance(value, ProvenanceTensor):
        return value
    return track_provenance(detach_provenance(value), get_provenance(value) - frozenset(names))


def computed_from(value: Tensor, *inputs: Tensor) -> Tensor:
    """Says what a value depends on, where Pyro tracks it (:func:`pyro.render_model` and the like); else the value as it is.

    The concepts of a level are computed together, from one tensor with all the earlier ones, of which the mechanisms see
    their parents only.

    Args:
        value: The value.
        inputs: All that it was computed from.
    """
    if not isinstance(value, ProvenanceTensor):
        return value
    return track_provenance(detach_provenance(value), get_provenance(inputs))


def as_given(name: str, value: Tensor, natural: Tensor, *, event_dim: int) -> Tensor:
    """A site's value with every intervention in effect, as a tensor like the natural one.

    ``poutine.do`` replaces the natural value by what it was given: a number, an event, or more leading dimensions.

    Args:
        name: The site, for errors.
        value: What the site returned.
        natural: What it would have held.
        event_dim: Number of dimensions that the event has.

    Raises:
        ValueError: If the value does not broadcast to the site's event.
    """
    if value is natural:
        return value
    value = torch.as_tensor(value)  # condition leaves a number as it is
    try:
        shape = torch.broadcast_shapes(value.shape, natural.shape)
    except RuntimeError:
        shape = torch.Size()
    if shape[-event_dim:] != natural.shape[-event_dim:]:
        raise ValueError(
            f"do[{name!r}]: a value of shape {tuple(value.shape)} does not broadcast to the site's {tuple(natural.shape)}"
        )
    return value.to(device=natural.device, dtype=natural.dtype).expand(shape)
