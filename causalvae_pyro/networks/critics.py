"""Networks that criticise a decoder's images in training: classifiers of the labels and a conditional discriminator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from causalvae_pyro.networks.shapes import check_image_shape
from causalvae_pyro.utils.configurable import Configurable

__all__ = ["LabelPredictor", "ProjectionDiscriminator"]


class LabelPredictor(nn.Module):
    """An encoder and a linear layer: logits of binary labels, standardised values of others.

    Args:
        encoder: Any encoder of this package.
        num_labels: Number of labels ``n``.
    """

    def __init__(self, encoder: nn.Module, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(encoder.out_features, num_labels)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` to ``[N, n]``."""
        return self.output(self.encoder(x))


class ProjectionDiscriminator(Configurable, nn.Module):
    """Conditional discriminator: a score ``w(f(x)) + <V u, f(x)> + b(u)`` of image and labels, its layers spectrally normalised.

    Counterfactuals have combinations of labels that are rare among real images. ``b``, a small network of the labels alone, takes
    that up; without it the score blames the image, and the decoder answers with artefacts.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; ``H`` and ``W`` are multiples of 16.
        num_labels: Number of labels ``n``.
        channels: Channels at half the resolution; up to four times as many below.

    Source: Miyato & Koyama 2018 (projection), Miyato et al. 2018 (spectral normalisation).
    """

    #: Slower than the decoder that it criticises: a discriminator that wins teaches nothing.
    lr_factor = 0.2

    def __init__(self, image_shape: Sequence[int], num_labels: int, *, channels: int = 32) -> None:
        check_image_shape(image_shape, 16)
        super().__init__()
        c, (colours, height, width) = channels, image_shape
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            spectral_norm(nn.Conv2d(4 * colours, c, 3, padding=1)),
            nn.LeakyReLU(0.2),
        ]
        for before, after in ((c, 2 * c), (2 * c, 4 * c), (4 * c, 4 * c)):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.image_shape = tuple(image_shape)
        self.convolutions = nn.Sequential(*layers)
        features = 4 * c * (height // 16) * (width // 16)
        self.output = spectral_norm(nn.Linear(features, 1))
        self.projection = spectral_norm(nn.Linear(num_labels, features, bias=False))
        self.combination = nn.Sequential(nn.Linear(num_labels, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` in [0, 1] and standardised labels ``[N, n]`` to scores ``[N]``, high for what looks real."""
        h = self.convolutions(2 * x - 1).flatten(1)
        return (self.output(h) + self.combination(labels)).squeeze(1) + (self.projection(labels) * h).sum(1)
