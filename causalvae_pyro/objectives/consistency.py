"""Counterfactual consistency: the guide recovers the concepts from the decoded image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import mean_of
from causalvae_pyro.scm.base import endogenous_base
from causalvae_pyro.utils.modes import frozen

__all__ = ["CounterfactualConsistency", "decode_swapped", "ramp", "swap_concepts"]


class CounterfactualConsistency:
    """Consistency of counterfactuals: concepts inferred from the decoded counterfactual must match its inputs.

    ::

        E ||m(x') - z'||^2 / (2 std^2) + noise_weight E ||(m_x(x') - eps_x) / s_x||^2 / 2,   x' = decoder(z', eps_x)

    ``z'`` takes each concept, with probability 1/2, from another image of the batch, so it covers interventions; ``eps_x`` is
    the image's own, with ``s_x`` its posterior standard deviation; ``m`` and ``m_x`` are the guide's means. Both parts are,
    up to constants, minus variational bounds on the mutual information between the decoded image and its inputs
    (InfoGAN, Chen et al. 2016; the sleep phase of wake-sleep). Where concepts are correlated, reconstruction alone does not
    determine which of them a pixel depends on. This term penalises a decoder that renders one concept through another or ignores
    ``eps_x``.

    The encoder learns from real images and acts as a fixed predictor here: the gradient reaches the decoder only. Real images in
    which a concept follows its causes do not teach the encoder to infer the concept itself. With ``train_guide`` it also learns
    from decoded images, as in the sleep phase. This assumes a decoder in which each concept has its own effect
    (:class:`~causalvae_pyro.networks.SpriteDecoder`); with any other, decoder and encoder may agree on an arbitrary code.

    Args:
        guide: The guide that is trained with the model.
        std: Tolerated error of the encoder, > 0, in units of the latent concept (label standard deviations for a prior from
            :meth:`~causalvae_pyro.priors.LabelPrior.from_labels`).
        noise_weight: Factor of the second part, >= 0.
        train_guide: Train the guide by this term too.
        pixel_noise: Standard deviation of noise added to the decoded images, >= 0; it hides signals of lower amplitude.
        weight: Factor in the loss. By default it starts after a tenth of the training and is full after a quarter, when the
            encoder is accurate enough.
    """

    name = "consistency"

    def __init__(
        self,
        guide: nn.Module,
        *,
        std: float = 0.1,
        noise_weight: float = 0.2,
        train_guide: bool = False,
        pixel_noise: float = 0.0,
        weight: float | Callable[[float], float] | None = None,
    ) -> None:
        if not std > 0:
            raise ValueError(f"std: got {std}; must be > 0")
        if not noise_weight >= 0:
            raise ValueError(f"noise_weight: got {noise_weight}; must be >= 0")
        if not pixel_noise >= 0:
            raise ValueError(f"pixel_noise: got {pixel_noise}; must be >= 0")
        self.guide, self.std, self.noise_weight = guide, std, noise_weight
        self.train_guide, self.pixel_noise = train_guide, pixel_noise
        self.weight = ramp if weight is None else weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        z = trace.nodes["z"]["value"]
        images, *inputs = decode_swapped(model, trace)
        swapped = inputs[0]
        if self.pixel_noise:
            images = (images + self.pixel_noise * torch.randn_like(images)).clamp(0, 1)
        read = self._read(images)
        error = (_endogenous_mean(read["eps"]["fn"], model.scm).reshape(z.shape) - swapped).square()
        total = error.sum((-2, -1)) / (2 * self.std**2)
        if len(inputs) > 1 and self.noise_weight:
            q = read["eps_x"]["fn"]
            error = (q.mean - inputs[1].reshape(q.mean.shape)).square() / q.variance.detach()
            total = total + self.noise_weight / 2 * error.sum(-1).reshape(total.shape)
        # Summed over the batch, averaged over particles.
        return total.reshape(-1, z.shape[-3]).mean(0).sum()

    def _read(self, images: Tensor) -> Any:
        mode = nullcontext() if self.train_guide else frozen(self.guide)
        with mode, poutine.block(), poutine.trace() as tracer:
            self.guide(images)
        return tracer.trace.nodes


def ramp(progress: float) -> float:
    """A factor that sets in after a tenth of the training and is 1 after a quarter."""
    return min(1.0, max(0.0, (progress - 0.1) / 0.15))


def decode_swapped(model: Any, trace: Any, *, detach_noise: bool = True) -> tuple[Tensor, ...]:
    """Decodes swapped concepts with each image's own noise: the mean images ``[N, C, H, W]`` and the decoder's inputs.

    ``N`` counts particles and batch. The concepts ``[..., batch, n, d]`` follow, and ``eps_x`` where the model has it; none of
    them passes a gradient on, unless ``detach_noise=False`` for ``eps_x``.
    """
    inputs: tuple[Tensor, ...] = (swap_concepts(trace.nodes["z"]["value"].detach()),)
    if "eps_x" in trace.nodes:
        noise = trace.nodes["eps_x"]["value"]
        inputs += (noise.detach() if detach_noise else noise,)
    images = model.likelihood(model.decoder(*inputs)).mean
    return images.reshape(-1, *images.shape[-3:]), *inputs


def swap_concepts(z: Tensor) -> Tensor:
    """Each concept ``[..., batch, n, d]`` of each image, with probability 1/2, from another image of the batch."""
    columns = []
    for column in z.unbind(-2):
        other = column[..., torch.randperm(column.shape[-2], device=z.device), :]
        columns.append(torch.where(torch.rand(column.shape[:-1], device=z.device)[..., None] < 0.5, other, column))
    return torch.stack(columns, -2)


def _endogenous_mean(q: Any, scm: Any) -> Tensor:
    base = endogenous_base(q, scm)
    return scm.to_endogenous(mean_of(q)) if base is None else mean_of(base)
