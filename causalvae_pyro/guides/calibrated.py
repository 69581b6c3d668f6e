"""A guide whose intervals cover the labels as often as they say."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from causalvae_pyro.distributions import BlockNormal, prior_mean
from causalvae_pyro.guides.wrapper import GuideWrapper
from causalvae_pyro.utils.images import check_observations, pixels_of, scale_observations
from causalvae_pyro.utils.label_columns import known_concepts, label_columns
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["CalibratedGuide", "calibrate"]


class CalibratedGuide(GuideWrapper):
    """Temperature scaling (Guo et al. 2017) per concept: ``q(z_i | x, u) = N(m_i, (t_i s_i)^2)``.

    Where the conditional prior is narrow, training makes the guide's ``s`` about the prior's ``lambda2``, which says how exact
    labels are, and nothing of how well the network reads them. The temperatures ``t`` come from images that the guide has not
    seen, by :func:`calibrate`. In training the wrapped guide is left as it is.

    Args:
        guide: See :class:`GuideWrapper`; its distribution of ``z`` must be Gaussian.
        model: See :class:`GuideWrapper`.
        temperature: ``t``, > 0; one number or one per concept.
    """

    temperature: Tensor

    def __init__(self, guide: nn.Module, model: Any, temperature: float | Sequence[float] = 1.0) -> None:
        super().__init__(guide, model)
        values = torch.as_tensor(temperature, dtype=torch.get_default_dtype())
        if values.shape not in ((), (len(model.graph),)) or not bool(((values > 0) & values.isfinite()).all()):
            raise ValueError(f"temperature: got {temperature}; must be a number > 0, or {len(model.graph)} of them")
        self.register_buffer("temperature", values.expand(len(model.graph)).clone())

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        posterior = self.guide.posterior(x, labels)
        if self.training:
            return posterior
        q, factor = self._endogenous(posterior), self.temperature[:, None]
        if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
            scaled: Any = dist.Normal(q.mean, factor * q.stddev).to_event(2)
        elif isinstance(q, BlockNormal):
            rows = factor.expand(q.event_shape).reshape(q.scale_tril.shape[-3:-1])
            scaled = BlockNormal(q.loc, rows[..., None] * q.scale_tril, validate_args=False)
        else:
            raise TypeError(f"guide: its distribution of z is {type(q).__name__}; must be Gaussian")
        return posterior | {"eps": self._exogenous(scaled)}


@torch.no_grad()
def calibrate(
    model: Any, guide: Any, x: Tensor, labels: Tensor, *, level: float = 0.95, batch_size: int = 256
) -> CalibratedGuide:
    """Finds the temperatures at which intervals of the guide hold the labels of held-out images as often as they should.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide, over ``z`` and Gaussian, which does not read labels.
        x: Images ``[N, C, H, W]`` that neither has been trained on. Some hundred will do.
        labels: Their labels ``[N, n]``, NaN where missing.
        level: Of the central intervals, in (0, 1).
        batch_size: Images per pass.

    Returns:
        The guide, wrapped.

    Raises:
        ValueError: If an argument is not as stated, or a concept has fewer than 20 labels.

    Example:
        >>> from causalvae_pyro.guides import calibrate
        >>> guide = calibrate(run.model, run.guide, images, labels)
        >>> counterfactual(run.model, guide, x, do={"light": 12.0}, num_samples=5).shape
        torch.Size([5, 8, 3, 64, 64])
    """
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}; must lie in (0, 1)")
    check_observations(x, pixels_of(model))
    expected = [len(x), getattr(model.prior, "num_labels", len(model.graph))]
    if list(labels.shape) != expected:
        raise ValueError(f"labels: expected shape {expected}, got {list(labels.shape)}")
    calibrated, parts = CalibratedGuide(guide, model).to(model.zero), []
    with evaluation_mode(model, calibrated), local_params(model, calibrated):
        for images, known in zip(x.split(batch_size), labels.to(model.zero).split(batch_size), strict=True):
            images = scale_observations(images, pixels_of(model), device=model.zero.device, dtype=model.zero.dtype)
            q = calibrated._endogenous(guide.posterior(images))
            distance = (prior_mean(model.prior(known.nan_to_num())) - q.mean).abs() / q.variance.sqrt()
            parts.append(distance.masked_fill(~known_concepts(model.prior, known)[..., None], torch.nan))
    found = []
    width = NormalDist().inv_cdf(0.5 + level / 2)
    columns = label_columns(model.prior, len(model.graph))
    for name, own, column in zip(model.graph.names, columns, torch.cat(parts).unbind(1), strict=True):
        column = column[~column.isnan()]
        if not own:
            found.append(1.0)  # nothing says how well it is read
            continue
        if len(column) < 20:
            raise ValueError(f"labels: the concept {name!r} has {len(column)} of them; calibration takes at least 20")
        found.append(max(1e-6, torch.quantile(column, level).item() / width))
    return CalibratedGuide(guide, model, found).to(model.zero).train(guide.training)
