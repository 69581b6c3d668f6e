"""Action, the second of Pearl's three steps: interventions of all kinds on a model, checked, in label or latent units."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor
from torch.distributions import Distribution

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.interventions.handlers import Change, Parents, SoftIntervention, Value, as_soft, check_result, soft_do
from causalvae_pyro.utils.label_columns import label_columns
from causalvae_pyro.utils.modes import evaluation_mode, gradients
from causalvae_pyro.utils.numbers import number_tensor

__all__ = ["InterventionSet", "Interventions", "check_unwrapped", "intervene", "latent_values", "values_of"]

Interventions = Mapping[str, Value | Change]


def intervene(model: Callable, do: Interventions, *, size: int | None = None, latent: bool = False) -> Callable:
    """Action: the model under ``do``, with every value checked.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        do: Concept name to what becomes of it. Hard: a number, or one value per image ``[N]``, in label units, mapped by the
            prior's mean ``lambda1``; where the prior has several label columns for a concept, as many numbers ``[k]`` or
            ``[N, k]``. Soft: :class:`Shift`, :class:`Scale`, :class:`Replace` or ``fn(natural, parents)``, on
            labels ``[N]``. With ``latent=True`` all of them in units of ``z``: values are a number, ``[d]`` or ``[N, d]``, and
            functions see ``[N, d]``. A distribution of values is drawn from: once for each image where ``size`` is known, else
            once for all. NaN among the hard values of several images leaves the concept of that image as it is.
        size: The number ``N`` of images that per-image values must match; unchecked where ``None``.
        latent: Take the values as they are instead of as labels.

    Returns:
        The model wrapped in ``poutine.do`` and :func:`soft_do`; itself where ``do`` is empty.

    Raises:
        ValueError: If a concept is unknown, a value has a wrong shape or is not finite (``poutine.do`` on its own ignores
            unknown names), or the prior cannot read labels for a soft intervention. What functions return is checked as the
            model runs.

    In label units, a concept whose label moves from ``u = prior.to_labels(z)`` to ``u'`` moves to
    ``z + lambda1(u') - lambda1(u)``: what the label does not tell about it stays, and no change of the label is none at all.
    For :class:`~causalvae_pyro.FixedPrior` that adds ``(u' - u) / scale`` to every dimension.
    :class:`~causalvae_pyro.priors.LearnedPrior` finds ``u`` on its grid, 0.004 label standard deviations apart, so ``u``
    and ``u'`` are that coarse, but ``z`` keeps the remainder; beyond the grid's 4 standard deviations ``u`` is its end.
    :class:`Replace` keeps nothing: ``z`` is ``lambda1`` of the new label, as for a hard intervention.
    """
    check_unwrapped(model)
    return InterventionSet.from_do(model, do, size, latent).apply(model)


@dataclass(frozen=True)
class InterventionSet:
    """Checked interventions in units of ``z``: what :func:`intervene` puts around a model, for all images or some."""

    hard: dict[str, Tensor]
    soft: dict[str, SoftIntervention]
    latent: bool
    #: Hard interventions on some of the images only, NaN for the others.
    partial: frozenset[str] = frozenset()

    @classmethod
    def from_do(cls, model: Any, do: Interventions, size: int | None = None, latent: bool = False) -> InterventionSet:
        """Checks interventions; the arguments are those of :func:`intervene`."""
        _check_names(model, do)
        do = {name: _drawn(name, given, model, size, latent) for name, given in do.items()}
        numbers = {name: given for name, given in do.items() if not _is_soft(given)}
        hard = latent_values(model, numbers, size=size, latent=latent, partial=True)
        soft: dict[str, SoftIntervention] = {}
        prior = None if latent else model.prior
        for name, given in do.items():
            if not _is_soft(given):
                continue
            where = f"do[{name!r}]"

            def checked(field: str, value: Any, where: str = where) -> Tensor:
                return _value(f"{where}.{field}", value, model, size, latent)

            change = as_soft(name, given).map_values(checked)
            if not latent and not hasattr(prior, "to_labels"):
                reason = f"the prior {type(prior).__name__} has no to_labels, which soft interventions on labels need"
                raise ValueError(f"{where}: {reason}; pass latent=True")
            soft[name] = change if latent else _OnLabels(prior, model.graph, name, change)
        return cls(hard, soft, latent, frozenset(name for name, value in hard.items() if value.isnan().any()))

    def select(self, part: slice, copies: int = 1) -> InterventionSet:
        """The interventions for a part of the images, ``copies`` times over."""

        def take(value: Tensor, per_image: int) -> Tensor:
            return value[part].repeat(copies, *[1] * (per_image - 1)) if value.ndim == per_image else value

        # By their dimensions: of z [N, d], of labels [N].
        inner = 2 if self.latent else 1
        soft = {name: change.map_values(lambda _, value: take(value, inner)) for name, change in self.soft.items()}
        return dataclasses.replace(self, hard={name: take(value, 2) for name, value in self.hard.items()}, soft=soft)

    def spread(self, copies: int) -> InterventionSet:
        """Hard interventions with one value per setting, each for so many rows in turn."""
        return dataclasses.replace(
            self, hard={name: v.repeat_interleave(copies, 0) if v.ndim == 2 else v for name, v in self.hard.items()}
        )

    def apply(self, model: Callable) -> Callable:
        """The model under these interventions."""
        soft = self.soft | {name: _SetSome(self.hard[name]) for name in self.partial}
        if soft:
            model = soft_do(model, soft)
        # Nested do on one site recurses for ever in Pyro, hence one handler with all the values.
        data: dict[str, Any] = {name: value for name, value in self.hard.items() if name not in self.partial}
        return poutine.do(model, data=data) if data else model


@dataclass(frozen=True, eq=False)
class _SetSome(SoftIntervention):
    """Sets the concept of some images, and leaves that of those whose value is NaN."""

    value: Tensor

    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        return torch.where(self.value.isnan(), natural, self.value)


@dataclass(frozen=True, eq=False)
class _OnLabels(SoftIntervention):
    """A change of labels as one of ``z``; see :func:`intervene`."""

    prior: Any
    graph: Any
    name: str
    change: SoftIntervention

    def apply(self, natural: Tensor, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        index = {name: self.graph.index(name) for name in (self.name, *parents)}
        values = torch.broadcast_tensors(natural, *parents.values())
        z = natural.new_zeros(*values[0].shape[:-1], len(self.graph), natural.shape[-1])
        z[..., list(index.values()), :] = torch.stack(values, -2)
        labels = self.prior.to_labels(z)
        before = labels[..., index[self.name]]
        noise = noise.squeeze(-1) if noise.shape[-1] == 1 else noise
        seen = Parents(self.name, {parent: labels[..., index[parent]] for parent in parents})
        after = self.change.apply(before.clone(), seen, noise)
        after = check_result(self.name, after, before, exact=True).expand(before.shape)
        if hasattr(self.prior, "codes"):
            self.prior.codes(f"do[{self.name!r}]", index[self.name], after)
        new, old = (_lambda1(self.prior, len(self.graph), index[self.name], label) for label in (after, before))
        return new if self.change.replaces else natural + (new - old)

    def map_values(self, convert: Callable[[str, Any], Any]) -> _OnLabels:
        return dataclasses.replace(self, change=self.change.map_values(convert))


def latent_values(
    model: Any, do: Interventions, *, size: int | None = None, latent: bool = False, partial: bool = False
) -> dict[str, Tensor]:
    """Values of concepts, checked, as ``poutine.do`` takes them: in units of ``z``, on the model's device, in its precision.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        do: Concept name to a number or one value per image ``[N]``, in label units; with ``latent`` a number, ``[d]`` or
            ``[N, d]`` in units of ``z``.
        size: The number ``N`` of images that per-image values must match; unchecked where ``None``.
        latent: The values are in units of ``z`` already.
        partial: NaN is allowed among per-image values, and stays.

    Returns:
        For each concept ``[d]`` or ``[N, d]``: the prior's mean ``lambda1`` of its label; with ``latent`` the value as given.

    Raises:
        ValueError: If a concept is unknown, or a value is an intervention without a value of its own, has a wrong shape or is
            not finite.
    """
    _check_names(model, do)
    values = {}
    for name, given in do.items():
        if _is_soft(given):
            raise ValueError(f"do[{name!r}]: expected a number or one value per image, got {given!r}; soft ones go to intervene")
        index = model.graph.index(name)
        columns = () if latent else label_columns(model.prior, len(model.graph))[index]
        if not latent and hasattr(model.prior, "codes"):
            given = model.prior.codes(f"do[{name!r}]", index, given)
        if len(columns) == 1 or latent:
            value = _value(f"do[{name!r}]", given, model, size, latent, partial)
        else:
            value = _group(f"do[{name!r}]", given, model, size, len(columns), partial)
        if not latent:
            left = value.isnan()[..., None] if len(columns) == 1 else value.isnan().all(-1, keepdim=True)
            with gradients(None, value), evaluation_mode(model.prior):
                value = _lambda1(model.prior, len(model.graph), index, value.nan_to_num())
            value = value.masked_fill(left, torch.nan) if partial else value
        values[name] = value
    return values


def values_of(change: Value | Change) -> list[Any]:
    """The values that an intervention was given: itself where it is hard, its fields where it is soft."""
    return list(vars(change).values()) if isinstance(change, SoftIntervention) else [change]


def check_unwrapped(model: Callable) -> None:
    """Refuses a model that a handler wraps already."""
    if unwrap(model) is not model:
        raise ValueError("model: is wrapped by a handler already; pass the model itself and all interventions in one do")


def _check_names(model: Any, do: Any) -> None:
    if not isinstance(do, Mapping):
        raise ValueError(f"do: expected a mapping from concepts to values, got {type(do).__name__}")
    for name in do:
        if name not in model.graph.names:
            raise ValueError(f"do: unknown concept {name!r}; known: {list(model.graph.names)}")


def _drawn(name: str, given: Any, model: Any, size: int | None, latent: bool) -> Any:
    """A distribution's draw, one for each image if their number is known; anything else as it is."""
    if not isinstance(given, Distribution):
        return given
    inner = given.batch_shape + given.event_shape
    several = latent or len(label_columns(model.prior, len(model.graph))[model.graph.index(name)]) > 1
    per_image = (len(inner) == 2 if several else len(inner) == 1) and inner[0] == size
    value = (given.rsample if given.has_rsample else given.sample)(() if per_image or size is None else (size,))
    # In units of z, the same for all dimensions of a concept.
    return value[..., None] if latent and not inner and size is not None else value


def _is_soft(given: Any) -> bool:
    return callable(given) or isinstance(given, SoftIntervention)


def _value(where: str, value: Any, model: Any, size: int | None, latent: bool, partial: bool = False) -> Tensor:
    like, dim = next(model.parameters(), torch.zeros(())), model.scm.dim
    try:
        tensor = number_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: expected a number or a tensor, got {value!r}") from None
    some = partial and tensor.ndim == 1 + latent and not tensor.isnan().all()
    if (tensor.isinf() if some else ~torch.isfinite(tensor)).any():
        raise ValueError(f"{where}: got a value that is not finite")
    shape = tuple(tensor.shape)
    if not latent:
        if tensor.ndim > 1 or (tensor.ndim == 1 and size is not None and len(tensor) != size):
            expected = "a number" + (f" or shape ({size},)" if size is not None else " or one value per image")
            raise ValueError(f"{where}: expected {expected}, got shape {shape}")
    elif (
        tensor.ndim > 2
        or (tensor.ndim and tensor.shape[-1] not in (1, dim))
        or (tensor.ndim == 2 and size is not None and len(tensor) != size)
    ):
        raise ValueError(f"{where}: expected a number, [d] or [N, d] latent values, got shape {shape}")
    return tensor


def _group(where: str, value: Any, model: Any, size: int | None, columns: int, partial: bool) -> Tensor:
    """The value of a concept with none or several label columns ``k``: ``[k]`` or ``[N, k]``."""
    if not columns:
        raise ValueError(f"{where}: the concept has no label; pass latent=True, and values in units of z")
    like = next(model.parameters(), torch.zeros(()))
    try:
        tensor = number_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: expected {columns} numbers, one for each label column, got {value!r}") from None
    shape = tuple(tensor.shape)
    if len(shape) not in (1, 2) or shape[-1] != columns or (len(shape) == 2 and size is not None and len(tensor) != size):
        rows = "N" if size is None else size
        raise ValueError(f"{where}: expected shape ({columns},) or ({rows}, {columns}), one for each label column, got {shape}")
    left = tensor.isnan().all(-1, keepdim=True)  # NaN in all columns leaves an image alone
    allowed = left if partial and len(shape) == 2 and not bool(left.all()) else torch.zeros_like(left)
    if not bool((tensor.isfinite() | allowed).all()):
        raise ValueError(f"{where}: got a value that is not finite")
    return tensor


def _lambda1(prior: Any, count: int, index: int, value: Tensor) -> Tensor:
    # lambda1 acts on each concept's own labels, so the other columns do not matter.
    columns = label_columns(prior, count)[index]
    value = value[..., None] if len(columns) == 1 else value
    labels = value.new_zeros(*value.shape[:-1], getattr(prior, "num_labels", count))
    labels[..., list(columns)] = value
    return prior_mean(prior(labels))[..., index, :]
