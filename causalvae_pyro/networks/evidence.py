"""An encoder without weights of its own: it asks a bilinear decoder which concepts explain an image."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from causalvae_pyro.networks.bilinear import BilinearDecoder, Reduced
from causalvae_pyro.utils.compat import version_of
from causalvae_pyro.utils.configurable import Configurable

__all__ = ["EvidenceEncoder"]

_LEAST_SPREAD = 1e-3


class EvidenceEncoder(Configurable, nn.Module):
    """Reads concepts by the evidence for each of a :class:`~causalvae_pyro.networks.BilinearDecoder`'s anchors.

    ::

        log p(x | z_j) = log N(x; m_j, F_j F_j^T + v I)          the noise integrated out, at each anchor j
        w_j            ~ p(x | z_j)^(1 / temperature)

    The features are the weighted mean of the anchors and, in each of their dimensions, the logarithm of the weighted standard
    deviation. A group that training has not seen is explained by its own combination of the basis, so that the concepts are not
    taken for the group: that is what an encoder trained on a few groups gets wrong.

    Args:
        model: A model with that decoder, or the decoder. It is no submodule.
        variance: ``v``, of a pixel, > 0.
        temperature: > 0. Pixels' errors are alike over a neighbourhood, so the evidence counts them too often.
        reduction: Images are read at so many times fewer pixels along each side, by averages; a divisor of both sides.

    Raises:
        TypeError: If there is no such decoder.
        ValueError: If another argument is out of range.
    """

    def __init__(self, model: Any, *, variance: float, temperature: float = 1.0, reduction: int = 1) -> None:
        super().__init__()
        decoder = getattr(model, "decoder", model)
        if not isinstance(decoder, BilinearDecoder):
            raise TypeError(f"model: its decoder is a {type(decoder).__name__}; this encoder needs a BilinearDecoder")
        for name, value in (("variance", variance), ("temperature", temperature)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: got {value}; must be > 0")
        decoder.check_reduction(reduction)
        # In a tuple, so that it is not registered as a submodule.
        self._decoder = (decoder,)
        self.image_shape = decoder.image_shape
        self.variance, self.temperature, self.reduction = variance, temperature, reduction
        self.out_features = 2 * decoder.num_concepts * decoder.dim
        self._kept: tuple[Any, ...] | None = None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        decoder = self._decoder[0]
        if x.ndim < 3 or tuple(x.shape[-3:]) != self.image_shape:
            raise ValueError(f"x: expected images of shape [..., {', '.join(map(str, self.image_shape))}], got {list(x.shape)}")
        images = x.reshape(-1, *self.image_shape)
        with torch.autocast(x.device.type, enabled=False):
            weights = (self.evidence(images) / self.temperature).softmax(-1)
        mean = weights @ decoder.anchors
        variance = weights @ decoder.anchors.square() - mean.square()
        spread = variance.clamp(min=_LEAST_SPREAD**2).log() / 2
        return torch.cat([mean, spread], -1).reshape(*x.shape[:-3], self.out_features)

    def evidence(self, images: Tensor) -> Tensor:
        """``log p(x | z_j)`` of images ``[N, C, H, W]`` in [0, 1] up to a constant, ``[N, anchors]``."""
        reduced, factors = self._at_anchors()
        images = reduced.images(images)
        found = []
        for anchor, factor in enumerate(factors):
            residual = images - reduced.mean[anchor]
            projected = reduced.project(reduced.basis[anchor : anchor + 1], residual)
            white = torch.linalg.solve_triangular(factor, projected.T, upper=False)
            distance = residual.square().sum((1, 2, 3)) - white.square().sum(0)
            found.append(-distance / (2 * reduced.variance(self.variance)) - factor.diagonal().log().sum())
        return torch.stack(found, -1)

    def initialise_head(self, head: Any) -> None:
        """Lets a guide's linear head begin with the reading itself.

        Args:
            head: The guide's, with linear ``loc``.
        """
        with torch.no_grad():
            head.loc.weight.zero_()
            head.loc.weight.fill_diagonal_(1.0)
            head.loc.bias.zero_()

    def _at_anchors(self) -> tuple[Reduced, Tensor]:
        """Mean and basis at the anchors, and Cholesky factors of ``v P_j``."""
        decoder = self._decoder[0]
        learns = decoder.basis.requires_grad and torch.is_grad_enabled()
        key = (
            version_of(decoder.mean),
            version_of(decoder.basis),
            decoder.basis.data_ptr(),
            decoder.basis.device,
            decoder.basis.dtype,
        )
        if learns or self._kept is None or self._kept[0] != key:
            reduced = Reduced(decoder, decoder.mean, decoder.basis, self.reduction)
            with torch.set_grad_enabled(learns):
                factors = torch.linalg.cholesky(reduced.scaled_precision(self.variance))
            if learns:
                return reduced, factors
            self._kept = (key, reduced, factors)
        return self._kept[1], self._kept[2]
