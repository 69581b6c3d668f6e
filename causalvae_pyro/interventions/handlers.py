"""Soft interventions: concepts as functions of what they would have been, through one Pyro handler."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from typing_extensions import Self

from causalvae_pyro.utils.compat import is_replaced_by_do
from causalvae_pyro.utils.numbers import number_tensor

__all__ = ["Replace", "Scale", "Shift", "SoftDoMessenger", "SoftIntervention", "soft_do"]

Value = float | Tensor | Sequence[float] | str | Sequence[str]


class SoftIntervention(ABC):
    """Base class: what becomes of a concept that is changed instead of set. A plain ``fn(natural, parents)`` does too."""

    #: Whether nothing of the natural value is kept, in label units not even what the label does not tell.
    replaces = False

    @abstractmethod
    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor | float:
        """The concept's new value.

        Args:
            natural: What the concept's own mechanism gives for its noise and these parents; in units of ``z``
                ``[..., d]``, in label units ``[...]``.
            parents: The parents' values with every intervention in effect, in the same units and shapes.
            noise: The concept's exogenous noise, standard normal in the model: ``[..., d]``, in label units ``[...]`` where
                ``d = 1``.

        Returns:
            A number or a tensor shaped like ``natural``.
        """

    def map_values(self, convert: Callable[[str, Any], Any]) -> SoftIntervention:
        """Itself with ``convert(name, value)`` in place of each value that may differ between images."""
        return self


class _Valued(SoftIntervention):
    def map_values(self, convert: Callable[[str, Any], Any]) -> Self:
        values = {field.name: convert(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **values)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Shift(_Valued):
    """Adds to the natural value.

    Args:
        by: A number or one per image ``[N]``, in label units; with ``latent=True`` also ``[d]`` or ``[N, d]``.

    Example:
        >>> Shift(0.5).apply(torch.tensor([1.0, 2.0]), {}, torch.zeros(2)).tolist()
        [1.5, 2.5]
    """

    by: Value

    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        return natural + _like(self.by, natural)


@dataclass(frozen=True, eq=False)
class Scale(_Valued):
    """Multiplies the natural value's distance from a point.

    Args:
        by: The factor; a number or one per image, as in :class:`Shift`. 1 changes nothing, 0 gives ``around``.
        around: The point that stays where it is, by default the zero of the units; shapes as those of ``by``.

    Example:
        >>> Scale(2.0, around=1.0).apply(torch.tensor([1.0, 2.0]), {}, torch.zeros(2)).tolist()
        [1.0, 3.0]
    """

    by: Value
    around: Value = 0.0

    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        # Written so that a factor of 1 is exact.
        return natural + (_like(self.by, natural) - 1) * (natural - _like(self.around, natural))


@dataclass(frozen=True, eq=False)
class Replace(SoftIntervention):
    """Another mechanism ``z_i = mechanism(parents, noise)``; the concept keeps its noise, which the new one may use or not.

    Args:
        mechanism: Shapes and units as in :meth:`SoftIntervention.apply`. It runs on batches of images, with posterior samples
            on ``samples * images`` rows, so values of its own must not be per image.

    Example:
        >>> change = Replace(lambda parents, noise: 2 * parents["light"] + 0.1 * noise)
        >>> change.apply(torch.zeros(1), {"light": torch.tensor([3.0])}, torch.tensor([1.0])).tolist()
        [6.099999904632568]
    """

    mechanism: Callable[[Mapping[str, Tensor], Tensor], Tensor | float]
    replaces = True

    def __post_init__(self) -> None:
        if not callable(self.mechanism):
            raise ValueError(f"mechanism: expected a function of (parents, noise), got {self.mechanism!r}")

    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor | float:
        return self.mechanism(parents, noise)


@dataclass(frozen=True, eq=False)
class _Function(SoftIntervention):
    function: Callable[[Tensor, Mapping[str, Tensor]], Tensor | float]

    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor | float:
        return self.function(natural, parents)


Change = SoftIntervention | Callable[[Tensor, Mapping[str, Tensor]], Tensor | float]


class Parents(dict):
    """The parents' values of a concept, which names what is none of its parents."""

    def __init__(self, name: str, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.name = name

    def __missing__(self, key: str) -> Tensor:
        raise ValueError(f"do[{self.name!r}]: the function reads {key!r}, which is no parent of it; its parents: {list(self)}")


class SoftDoMessenger(Messenger):
    """What :func:`soft_do` wraps a model in; ``with SoftDoMessenger(data):`` does the same for the programs within."""

    def __init__(self, data: Mapping[str, Change]) -> None:
        super().__init__()
        self.data = {name: as_soft(name, change) for name, change in data.items()}
        self._met: list[str] = []

    def __enter__(self) -> Self:
        self._met = []
        return super().__enter__()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        unknown = [name for name in self.data if name not in self._met]
        if exc_type is None and unknown:
            raise ValueError(f"do: unknown concept {unknown[0]!r}; the program has {list(dict.fromkeys(self._met))}")

    # A message passes the inner handlers first: what they make of it is natural to the outer ones.
    def _pyro_sample(self, msg: Any) -> None:
        name, infer = msg["name"], msg["infer"]
        if "_parents" not in infer:
            return
        self._met.append(name)
        # poutine.do sends a copy of the site around to record the natural value.
        if name in self.data and not is_replaced_by_do(msg):
            natural = infer.get("_changed", msg["value"])
            # Copies: a function that works in place must not reach the noise that other worlds share.
            value = self.data[name].apply(natural.clone(), Parents(name, infer["_parents"]), infer["_noise"].clone())
            infer["_changed"] = check_result(name, value, natural)

    # On the way back, after a trace around it has recorded the natural value.
    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.data and not is_replaced_by_do(msg) and "_changed" in msg["infer"]:
            msg["value"] = msg["infer"].pop("_changed")


def soft_do(model: Callable, data: Mapping[str, Change]) -> Callable:
    """``poutine.do`` for soft interventions: concepts become functions of what they would have been.

    Like ``poutine.do`` it takes the model as it is, works in units of ``z``, and lets descendants follow: what they see, and
    what the site ``z`` records, is the new value. A trace taken around it holds the natural value at the concept's own site.
    It nests with ``poutine.do`` in either order, and a concept that ``poutine.do`` sets stays as it is set; nested in itself,
    the outer change sees the inner one's value as the natural one.

    Args:
        model: Any program that runs a :class:`~causalvae_pyro.scm.CausalLayer`, wrapped by handlers or not.
        data: Concept name to ``fn(natural, parents) -> value``, with ``natural [..., d]`` and ``parents`` a mapping from
            names to ``[..., d]``, every intervention in effect; or to a :class:`SoftIntervention`. The value is a number or
            broadcasts with ``natural``; it may add leading dimensions.

    Returns:
        The wrapped model. Running it raises a ValueError if a concept is unknown, or a value has a wrong shape or is not finite.

    Example:
        >>> scm = LinearSCM(CausalGraph(["a", "b"], [("a", "b")]))
        >>> _ = scm.weight.data.fill_(2.0)
        >>> changed = soft_do(scm, {"a": lambda natural, parents: natural + 1})
        >>> changed(torch.tensor([[0.0], [1.0]])).squeeze(-1).tolist()
        [1.0, 3.0]
    """
    return SoftDoMessenger(data)(model)


def as_soft(name: str, change: Any) -> SoftIntervention:
    """A function as a soft intervention; a soft intervention as it is."""
    if isinstance(change, SoftIntervention):
        return change
    if isinstance(change, type) or not callable(change):
        raise ValueError(f"do[{name!r}]: expected a function or an intervention such as Shift(1.0), got {change!r}")
    return _Function(change)


def check_result(name: str, value: Any, natural: Tensor, exact: bool = False) -> Tensor:
    """What a function returned for a concept, checked; ``exact`` allows no other tensor shape than that of ``natural``."""
    if not isinstance(value, (Tensor, int, float)):
        raise ValueError(f"do[{name!r}]: expected the function to return a tensor or a number, got {type(value).__name__}")
    tensor = _like(value, natural)
    expected = tuple(natural.shape)
    if tensor.ndim:
        try:
            fits = torch.broadcast_shapes(tensor.shape, natural.shape)[-1:] == natural.shape[-1:] and tensor.ndim >= natural.ndim
        except RuntimeError:
            fits = False
        # With fewer dimensions, one value per image would pass for one per dimension where the two numbers agree.
        if not fits or (exact and tensor.shape != natural.shape):
            raise ValueError(f"do[{name!r}]: the function has to return a number or shape {expected}, got {tuple(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"do[{name!r}]: the function returned a value that is not finite")
    return tensor


def _like(value: Any, tensor: Tensor) -> Tensor:
    return number_tensor(value, dtype=tensor.dtype, device=tensor.device)
