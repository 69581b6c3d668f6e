"""An unconditional VAE whose posteriors say how far apart two images are: the features of the latent divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import trange

from causalvae_pyro.utils.images import check_images, scale_images
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["ImageVAE", "gaussian_kl"]


class ImageVAE(nn.Module):
    """A small VAE that knows of no labels, for the counterfactual latent divergence of Melistas et al. 2024.

    ``p(x | h) = N(x; m(h), s^2)`` with one learned scale ``s``, ``h ~ N(0, I)``. With its posteriors as features, and
    :func:`gaussian_kl` as their distance, :func:`~causalvae_pyro.metrics.minimality` is that divergence.

    Args:
        image_shape: ``(C, H, W)``, sides divisible by 4.
        latent_dim: Dimensions of ``h``; 16 there.
        hidden: Width of the dense layers.
    """

    def __init__(self, image_shape: Sequence[int], latent_dim: int = 16, *, hidden: int = 256) -> None:
        super().__init__()
        colours, height, width = image_shape
        if height % 4 or width % 4:
            raise ValueError(f"image_shape: got {tuple(image_shape)}; the sides must be divisible by 4")
        if latent_dim < 1:
            raise ValueError(f"latent_dim: got {latent_dim}; must be at least 1")
        places = 32 * (height // 4) * (width // 4)
        self.encoder = nn.Sequential(
            *(nn.Conv2d(colours, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(places, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, places), nn.ReLU()),
            nn.Unflatten(1, (32, height // 4, width // 4)),
            *(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, colours, 4, 2, 1)),
        )
        self.log_scale = nn.Parameter(torch.tensor(-1.5))

    def fit(
        self, images: Tensor, *, epochs: int = 10, batch_size: int = 64, lr: float = 2e-3, seed: int = 0, progress: bool = False
    ) -> None:
        """Maximises the evidence lower bound, and leaves the network in evaluation mode.

        Args:
            images: ``[N, C, H, W]``, uint8 or in [0, 1].
            epochs: Passes over them.
            batch_size: Images per step.
            lr: Peak learning rate of Adam in a one-cycle schedule.
            seed: Fixes the order of the images.
            progress: Show a progress bar.
        """
        check_images(images, "images")
        generator, steps = torch.Generator().manual_seed(seed), -(-len(images) // batch_size)
        optimizer = torch.optim.Adam(self.parameters(), lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps)
        self.train()
        for _ in trange(epochs, desc="epochs of the VAE", disable=not progress, dynamic_ncols=True):
            for rows in torch.randperm(len(images), generator=generator).split(batch_size):
                x = self._scaled(images[rows])
                loc, log_std = self.encoder(x).chunk(2, 1)
                mean = self.decoder(loc + log_std.exp() * torch.randn_like(loc)).sigmoid()
                log_scale = self.log_scale.clamp(min=-4.0)
                fit = (0.5 * ((x - mean) / log_scale.exp()).square() + log_scale).flatten(1).sum(1)
                loss = (fit + 0.5 * (loc.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.eval()

    @torch.no_grad()
    def posterior(self, images: Tensor, *, batch_size: int = 512) -> Tensor:
        """Means and logarithms of the standard deviations of ``q(h | x)``, ``[N, 2 k]``.

        Args:
            images: ``[N, C, H, W]``, uint8 or in [0, 1].
            batch_size: Images per pass.
        """
        check_images(images, "images")
        with evaluation_mode(self):
            return torch.cat([self.encoder(self._scaled(part)) for part in images.split(batch_size)]).to(images.device)

    def _scaled(self, images: Tensor) -> Tensor:
        return scale_images(images, "images", device=self.log_scale.device, dtype=self.log_scale.dtype)


def gaussian_kl(q: Tensor, p: Tensor) -> Tensor:
    """``KL(q || p)`` of diagonal Gaussians, averaged over their dimensions.

    Args:
        q: Means, then logarithms of the standard deviations, ``[..., 2 k]``.
        p: Likewise; the leading dimensions broadcast.

    Returns:
        ``[...]`` in nats per dimension, >= 0.

    Raises:
        ValueError: If the last dimension is odd, or the two differ in it.

    Source: Melistas et al. 2024. Their released code puts the means in the place of the log-scales too.

    Example:
        >>> gaussian_kl(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])).item()
        0.5
    """
    if q.shape[-1] != p.shape[-1] or q.shape[-1] % 2:
        raise ValueError(f"q: got {q.shape[-1]} columns beside p's {p.shape[-1]}; must be as many, means and log-scales")
    (loc, log_scale), (other, other_log_scale) = q.chunk(2, -1), p.chunk(2, -1)
    ratio = (2 * (log_scale - other_log_scale)).exp() + ((loc - other) / other_log_scale.exp()).square()
    return F.relu(0.5 * ratio - 0.5 - log_scale + other_log_scale).mean(-1)
