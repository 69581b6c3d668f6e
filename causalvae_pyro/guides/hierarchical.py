"""The guide of a hierarchical decoder."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.distributions import Choice, TopDownNormal
from causalvae_pyro.guides.conditional_noise import ConditionalNoiseGuide
from causalvae_pyro.networks.hierarchy import FeaturePyramid, HierarchicalDecoder
from causalvae_pyro.utils.images import scale_images

__all__ = ["HierarchicalGuide"]


class HierarchicalGuide(ConditionalNoiseGuide):
    """Hierarchical amortised guide (ladder VAE, Sonderby et al. 2016): concepts first, then the noise from coarse to fine.

    ::

        z       ~ N(m(x), s(x)^2)                                        from ``encoder``
        eps_l   ~ N(m_l, s_l^2),  (m_l, s_l) = head_l(pyramid_l(x), h_l)   for each level l

    ``h_l`` are the decoder's own features at that level. They depend on the concepts and on the noise of the levels above, so the
    head sees what the image still lacks. ``eps_x`` is one site, with a :class:`~causalvae_pyro.distributions.TopDownNormal`.

    Args:
        encoder: Encodes the concepts; see :class:`~causalvae_pyro.AmortizedGuide`.
        model: The :class:`~causalvae_pyro.CausalVAE` with a :class:`~causalvae_pyro.networks.HierarchicalDecoder`, or with a
            decoder whose attribute ``noise_decoder`` says that this part of it draws the noise, as
            :class:`~causalvae_pyro.networks.BrightnessDecoder` and :class:`~causalvae_pyro.networks.BackdropDecoder` do. It is no
            submodule: its parameters are not the guide's.
        init_scale: See :class:`~causalvae_pyro.AmortizedGuide`.
        min_scale: See :class:`~causalvae_pyro.AmortizedGuide`.
        plate: See :class:`~causalvae_pyro.AmortizedGuide`.

    Raises:
        TypeError: If the model has another decoder.
    """

    def __init__(
        self, encoder: nn.Module, model: Any, *, init_scale: float = 0.1, min_scale: float = 1e-4, plate: str = "data"
    ) -> None:
        decoder, outer = model.decoder, []
        while (part := getattr(decoder, "noise_decoder", None)) is not None:
            outer.append(decoder)
            decoder = part
        if not isinstance(decoder, HierarchicalDecoder):
            raise TypeError(f"model: its decoder is a {type(decoder).__name__}; this guide needs a HierarchicalDecoder")
        super().__init__(encoder, model.scm, init_scale=init_scale, min_scale=min_scale, plate=plate)
        self.noise_dim = decoder.noise_dim
        # In a tuple, so that the decoder is not registered as a submodule.
        self._decoder, self._outer = (decoder,), tuple(outer)
        self.pyramid = FeaturePyramid(decoder.image_shape, decoder.channels)
        self.noise_heads = nn.ModuleList(
            _NoiseHead(channels, shape[0], min_scale)
            for channels, shape in zip(decoder.channels, decoder.noise_shapes, strict=True)
            if shape[0]
        )

    def noise_posterior(self, x: Tensor, z: Tensor) -> TopDownNormal:
        x = scale_images(x)
        for outer in self._outer:
            # What it covers with other parts is not for the noise.
            if hasattr(outer, "uncovered"):
                x = outer.uncovered(x, z).flatten(0, -4)
        return self.noise(self.pyramid(x), z)

    def noise(self, features: list[Tensor], z: Tensor) -> TopDownNormal:
        """``q(eps_x | x, z)``, with the batch of ``z [..., batch, n, d]``.

        Args:
            features: Of the images ``[batch, ...]``, at each level.
            z: The concepts that the images are explained with.
        """
        for outer in self._outer:
            # Its part that draws the noise may see less of them.
            z = outer.concepts_of_noise(z) if hasattr(outer, "concepts_of_noise") else z
        lead, decoder, heads = z.shape[:-2], cast(Any, self._decoder[0]), cast(Any, self.noise_heads)

        def walk(choose: Choice) -> tuple[Tensor, Tensor, Tensor]:
            found: list[list[Tensor]] = [[], [], []]
            with decoder.precision():
                concepts, h = decoder.begin(z)
                copies = len(concepts) // len(features[0])
                for index, (level, shape, head) in enumerate(zip(decoder.levels, decoder.noise_shapes, heads, strict=False)):
                    h = level.grow(h)
                    own = features[index]
                    own = own.repeat(copies, 1, 1, 1) if copies > 1 else own
                    loc, scale = (part.to(z).flatten(1).unflatten(0, lead) for part in head(own, h))
                    value = choose(index, loc, scale)
                    for parts, part in zip(found, (loc, scale, value), strict=True):
                        parts.append(part)
                    if index + 1 < len(self.noise_heads):
                        h = level.render(h, value.reshape(-1, *shape), concepts)
            loc, scale, value = (torch.cat(parts, -1) for parts in found)
            return loc, scale, value

        return TopDownNormal(walk, lead, decoder.noise_dim)


class _NoiseHead(nn.Module):
    """Mean and standard deviation of a level's noise from the image's features and the decoder's."""

    def __init__(self, channels: int, noise_channels: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = min_scale
        self.norm = nn.GroupNorm(8, channels)
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.output = nn.Conv2d(channels, 2 * noise_channels, 3, padding=1)
        with torch.no_grad():
            self.output.weight[noise_channels:] *= 0.1
            cast(Tensor, self.output.bias)[noise_channels:] = -1.0

    def forward(self, features: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.mix(torch.cat([features, h], 1))
        loc, log_scale = self.output(F.silu(self.norm(mixed))).chunk(2, 1)
        return loc, self.min_scale + log_scale.clamp(max=1.0).exp()
