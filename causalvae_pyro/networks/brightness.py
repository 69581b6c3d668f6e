"""A decoder that separates an image's brightness from its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.networks.decoders import FiLMDecoder
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.images import bright_part, scale_images

__all__ = ["BrightnessDecoder"]


class BrightnessDecoder(Configurable, nn.Module):
    """Decoder whose image, on black ground, is multiplied by a brightness that the concepts set.

    ::

        p = sigmoid(picture(z, eps_x))                    what is shown, [..., C, H, W]
        g = sigmoid(level + sum_j f_j(z_j))               how bright it is, in (0, 1)
        x = g p

    With ``exact=True`` the picture is divided by its own bright part first, the median of its pixels at least half way from
    darkest to brightest. So the brightness ``g`` *is* that median of the image, whatever its shape and its blur::

        x = g p / bright_part(p)                          at most 1

    With ``brightness_concepts`` these concepts set the brightness and nothing else, and the others set the picture alone: an
    intervention on one of the former multiplies the image by a number.

    Each ``f_j`` is linear plus a small network. Convolutions would have to learn the product for every shape; here it is given,
    and concepts act on the brightness *additively*, as in :class:`~causalvae_pyro.networks.SpriteDecoder`. Whether a concept acts
    on the brightness, the picture or both is learned; :class:`~causalvae_pyro.objectives.EffectSparsity` makes its effect on the
    brightness small where it is not needed. What it is worth on handwriting is in docs/notes.md.

    Args:
        picture: Any decoder of ``z`` (and ``eps_x``), with output in logits.
        hidden: Width of the networks ``f_j``.
        exact: See above.
        brightness_concepts: Their positions, in [0, n); see above. By default any concept may act on both.
    """

    sets_brightness: Tensor

    def __init__(
        self,
        picture: nn.Module,
        *,
        hidden: int = 16,
        exact: bool = False,
        brightness_concepts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden: got {hidden}; must be at least 1")
        decoder: Any = picture
        count: int = decoder.num_concepts
        if brightness_concepts is not None and not set(brightness_concepts) <= set(range(count)):
            raise ValueError(f"brightness_concepts: got {list(brightness_concepts)}; must be positions of the {count} concepts")
        self.exact, self.separate = exact, brightness_concepts is not None
        sets = [brightness_concepts is None or j in brightness_concepts for j in range(count)]
        self.register_buffer("sets_brightness", torch.tensor(sets), persistent=False)
        self.picture = decoder
        self.image_shape: tuple[int, ...] = tuple(decoder.image_shape)
        self.num_concepts: int = decoder.num_concepts
        self.dim: int = decoder.dim
        self.noise_dim: int = decoder.noise_dim
        inputs = self.num_concepts, self.dim
        self.level = nn.Parameter(torch.zeros(()))
        self.linear = nn.Parameter(torch.zeros(inputs))
        self.first = nn.Parameter(torch.randn(*inputs, hidden) / self.dim**0.5)
        self.first_bias = nn.Parameter(torch.randn(self.num_concepts, hidden))
        self.second = nn.Parameter(torch.zeros(self.num_concepts, hidden))

    @classmethod
    def from_images(
        cls,
        images: Tensor,
        num_concepts: int,
        dim: int = 1,
        *,
        picture: type = FiLMDecoder,
        hidden: int = 16,
        exact: bool = False,
        brightness_concepts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes a decoder for such images: their mean as initial picture, at the mean of their brightest pixels.

        Args:
            images: Training images ``[N, C, H, W]`` in [0, 1] or uint8.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            picture: Class of the picture's decoder.
            hidden: See the class.
            exact: See the class.
            brightness_concepts: See the class.
            **kwargs: Passed on to ``picture``.
        """
        inner = picture.from_images(images, num_concepts, dim, **kwargs)  # type: ignore[attr-defined]
        decoder = cls(inner, hidden=hidden, exact=exact, brightness_concepts=brightness_concepts)
        top = scale_images(images.flatten(1).amax(1)).mean()
        with torch.no_grad():
            decoder.level.copy_(torch.logit(top.clamp(0.05, 0.95)))
            mean = inner.background.sigmoid() / decoder.level.sigmoid()
            inner.background.copy_(torch.logit(mean.clamp(1e-3, 1 - 1e-3)))
        return decoder

    @property
    def noise_decoder(self) -> nn.Module:
        """The part that draws the noise: the picture, as the brightness has none of its own."""
        return self.picture

    def concepts_of_noise(self, z: Tensor) -> Tensor:
        """The concepts ``[..., n, d]`` as :attr:`noise_decoder` sees them: those of the brightness alone are 0."""
        return z * ~self.sets_brightness[:, None] if self.separate else z

    def effects(self, z: Tensor) -> Tensor:
        """What each concept does to the brightness, in logits, ``[..., n]`` for ``z [..., n, d]``."""
        hidden = torch.tanh((z[..., None] * self.first).sum(-2) + self.first_bias)
        effects = (z * self.linear).sum(-1) + (hidden * self.second).sum(-1) / hidden.shape[-1]
        return effects * self.sets_brightness if self.separate else effects

    def gain(self, z: Tensor) -> Tensor:
        """The brightness ``g``, ``[...]`` for ``z [..., n, d]``."""
        return torch.sigmoid(self.level + self.effects(z).sum(-1))

    def effect_sizes(self, z: Tensor) -> Tensor:
        """How much each concept does: to the brightness (in logits), and to the picture where its decoder can say so.

        Args:
            z: ``[N, n, d]``.

        Returns:
            ``[1 + m, n]``: standard deviations over ``z``.
        """
        effects = self.effects(z)
        # Not of zero, where the root has no derivative.
        own = (effects.var(0, correction=0) + 1e-8).sqrt()[None] if len(z) else effects.new_zeros(1, self.num_concepts)
        return torch.cat([own, self.picture.effect_sizes(z)]) if hasattr(self.picture, "effect_sizes") else own

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        shown = self.concepts_of_noise(z)
        # In the concepts' precision: half precision is coarser than a grey level.
        picture = (self.picture(shown, eps_x) if self.noise_dim else self.picture(shown)).to(z.dtype).sigmoid()
        if self.exact:
            picture = picture / bright_part(picture)[..., None, None, None]
        image = picture * self.gain(z)[..., None, None, None]
        # The likelihood takes logits.
        return torch.logit(image.clamp(1e-6, 1 - 1e-6))
