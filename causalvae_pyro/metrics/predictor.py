"""Independent predictors, trained on real images, that read labels from counterfactual ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Predictor"]


class Predictor(nn.Module):
    """A small convolutional network for regression or classification, the judge of *effectiveness*.

    It shares nothing with the model under test and sees real images only (Monteiro et al. 2023; Melistas et al. 2024).

    Args:
        image_shape: ``(C, H, W)``, sides divisible by 4.
        outputs: Number of regression targets or of classes.
        classify: Predict one of ``outputs`` classes instead of ``outputs`` numbers.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, image_shape: Sequence[int], outputs: int, *, classify: bool = False) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise ValueError(f"image_shape: got {tuple(image_shape)}; the sides must be divisible by 4")
        self.classify = classify
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 128),
            nn.ReLU(),
            nn.Linear(128, outputs),
        )
        self.register_buffer("shift", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers ``[N, outputs]`` in the targets' units, or class logits ``[N, outputs]``."""
        return self.layers(x) * self.scale + self.shift

    def fit(
        self, images: Tensor, targets: Tensor, *, epochs: int = 12, batch_size: int = 64, lr: float = 2e-3, seed: int = 0
    ) -> None:
        """Trains on real images.

        Args:
            images: ``[N, C, H, W]``, uint8 or in [0, 1].
            targets: ``[N, outputs]`` numbers, or ``[N]`` classes.
            epochs: Passes over the data.
            batch_size: Images per step.
            lr: Peak learning rate of Adam, which falls to zero along a cosine.
            seed: Fixes the order of the data.
        """
        if not self.classify:
            self.shift.copy_(targets.mean(0))
            self.scale.copy_(targets.std(0))
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        steps = epochs * -(-len(images) // batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for index in torch.randperm(len(images), generator=generator).split(batch_size):
                output, target = self(_float(images[index])), targets[index]
                error = F.cross_entropy(output, target) if self.classify else ((output - target) / self.scale).square().mean()
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
                schedule.step()

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch_size: int = 512) -> Tensor:
        """Numbers ``[N, outputs]``, or classes ``[N]``, for images in [0, 1] or uint8."""
        output = torch.cat([self(_float(part)) for part in images.split(batch_size)])
        return output.argmax(-1) if self.classify else output


def _float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
