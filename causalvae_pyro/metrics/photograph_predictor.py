"""An independent predictor for photographs: reads labels, binary ones too, and knows whether two images show the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.metrics.predictor import _standardisation
from causalvae_pyro.utils.images import check_images, scale_images
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.progress import tracked

__all__ = ["PhotographPredictor"]


class PhotographPredictor(nn.Module):
    """A classifier and regressor for photographs: convolutions with maximum pooling, exponential units, a dense layer.

    Of another architecture than the classifiers that train a decoder
    (:class:`~causalvae_pyro.objectives.ClassifierConsistency`), so that what pleases them need not please it. It reads faces
    right in 92, 92 and 91 % (sex, smile, mouth open) after 2,500 training images.

    Args:
        image_shape: ``(C, H, W)``, sides divisible by 16.
        binary: Which of the labels are binary (0 or 1).
        mirror: Whether mirrored images keep their labels: then what is read is the mean over an image and its mirror image.
    """

    binary: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, image_shape: Sequence[int], binary: Sequence[bool], *, mirror: bool = True) -> None:
        super().__init__()
        colours, height, width = image_shape
        if height % 16 or width % 16:
            raise ValueError(f"image_shape: got {tuple(image_shape)}; the sides must be divisible by 16")
        layers: list[nn.Module] = [nn.Conv2d(colours, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.ELU()]
        for before, after in ((24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ELU(), nn.MaxPool2d(2)]
        self.convolutions, self.mirror = nn.Sequential(*layers), mirror
        self.dropout = nn.Dropout(0.4)
        self.hidden = nn.Linear(128 * (height // 16) * (width // 16), 128)
        self.output = nn.Linear(128, len(binary))
        self.register_buffer("binary", torch.tensor(list(binary), dtype=torch.bool))
        self.register_buffer("shift", torch.zeros(len(binary)))
        self.register_buffer("scale", torch.ones(len(binary)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` in [0, 1] to logits of binary labels and standardised values of others, ``[N, n]``."""
        return self.output(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        return F.silu(self.hidden(self.dropout(self.convolutions(x - 0.5).flatten(1))))

    @torch.inference_mode(False)
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        steps: int = 1000,
        batch_size: int = 64,
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        """Trains on real images, and leaves it in evaluation mode.

        Args:
            images: ``[N, C, H, W]``, uint8 or in [0, 1].
            labels: ``[N, n]``, NaN where missing.
            steps: Steps of AdamW, its rate falling from 2e-3 to 0.
            batch_size: Images per step.
            augment: Random change of a batch of images that leaves the labels as they are.
            seed: Fixes the order of the data.
            progress: Show a progress bar.
        """
        check_images(images, "images")
        shift, scale = _standardisation(labels)
        self.shift.copy_(torch.where(self.binary.cpu(), 0.5, shift))
        self.scale.copy_(torch.where(self.binary.cpu(), 0.5, scale))
        generator, batch_size = torch.Generator().manual_seed(seed), min(batch_size, len(images))
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=2e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        self.train()
        order = torch.empty(0, dtype=torch.int64)
        for _ in tracked(steps, "predictor", show=progress):
            if len(order) < batch_size:
                order = torch.randperm(len(images), generator=generator)
            rows, order = order[:batch_size], order[batch_size:]
            x, target = self._scaled(images[rows]), labels[rows].to(self.shift.device)
            loss = self._loss(self(x if augment is None else augment(x)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.eval()

    def _loss(self, read: Tensor, labels: Tensor) -> Tensor:
        known, target = ~labels.isnan(), labels.nan_to_num()
        squared = 0.5 * (read - (target - self.shift) / self.scale).square()
        crossed = F.binary_cross_entropy_with_logits(read, target.clamp(0, 1), reduction="none")
        return (torch.where(self.binary, crossed, squared) * known).sum() / len(labels)

    def _scaled(self, images: Tensor) -> Tensor:
        return scale_images(images, "images", device=self.shift.device, dtype=self.shift.dtype)

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Probabilities of binary labels and values of others, in label units, ``[N, n]``.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
            batch_size: Images per pass.
        """
        read = self._batched(self, images, batch_size)
        return torch.where(self.binary, read.sigmoid(), read * self.scale + self.shift).to(images.device)

    @torch.no_grad()
    def features(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """What the outputs are a linear function of, ``[N, 128]``.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
            batch_size: Images per pass.
        """
        return self._batched(self._features, images, batch_size).to(images.device)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
        check_images(images, "images")
        found = []
        with evaluation_mode(self):
            for part in images.split(batch_size):
                x = self._scaled(part)
                found.append((function(x) + function(x.flip(-1))) / 2 if self.mirror else function(x))
        return torch.cat(found)
