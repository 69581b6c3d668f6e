"""Who judges the pictures of ``benchmarks/morphomnist.py``: networks that had no part in training what drew them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import RandomAffine

from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.metrics import Predictor
from causalvae_pyro.networks import RandomBrightness, RandomSymmetry

__all__ = ["Judges"]


class Judges:
    """Thickness and digit as independent predictors read them, trained on real images, and the intensity by its definition.

    In real images the brightness tells the thickness. The predictors see them in random brightness, or they would take
    it for a hint where an intervention has set it. Of the thickness there are two readings: the first judge is of the kind of the
    predictors that take part in training, so that what pleases those may please it; the second has larger kernels, residuals,
    another normalisation and no maximum over positions.

    Args:
        train: Real images.
        seed: Fixes the networks.
        limit: Train on the first so many images, and once only.
        device: Where.
    """

    def __init__(self, train: MorphoMNIST, seed: int, limit: int | None, device: torch.device) -> None:
        torch.manual_seed(seed + 1)
        shape, images = tuple(train.images.shape[1:]), train.images[:limit]
        self.measure, self.classify = (p.to(device) for p in (Predictor(shape, 1), Predictor(shape, 10, classify=True)))
        augment = nn.Sequential(RandomBrightness(), RandomSymmetry())
        self.measure.fit(images, train.labels[:limit, :1], epochs=30 if limit is None else 1, augment=augment)
        augment = nn.Sequential(RandomBrightness(), RandomAffine(12, translate=(0.05, 0.05), scale=(0.9, 1.1), shear=8))
        self.classify.fit(images, train.digits[:limit], epochs=20 if limit is None else 1, augment=augment)
        torch.manual_seed(seed + 77)
        self.second = Residual().to(device)
        images = (train.images[:limit].float() / 255).to(device)
        self.second.fit(images, train.labels[:limit, :1].to(device), epochs=40 if limit is None else 1)

    def __call__(self, pictures: Tensor, labels: Tensor, digits: Tensor) -> dict[str, float]:
        """Mean absolute errors of thickness and intensity, and the share of digits that are still the same."""
        thickness = labels[:, 0]
        return {
            "thickness_mae_px": (self.measure.predict(pictures)[:, 0] - thickness).abs().mean().item(),
            "second_thickness_mae_px": (self.second.predict(pictures) - thickness).abs().mean().item(),
            "intensity_mae_grey": (MorphoMNIST.measure_intensity(pictures) - labels[:, 1]).abs().mean().item(),
            "digit_accuracy": (self.classify.predict(pictures) == digits).float().mean().item(),
        }

    def save(self, file: Path) -> None:
        """All weights, to a file of tensors."""
        state = {name: getattr(self, name).state_dict() for name in ("measure", "classify", "second")}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        torch.save(state, part)
        part.replace(file)

    @classmethod
    def load_or_train(cls, file: Path, train: MorphoMNIST, seed: int, limit: int | None, device: torch.device) -> Judges:
        """Those of an earlier call, or new ones, which are saved."""
        if not file.is_file():
            cls(train, seed, limit, device).save(file)
        # Also right after training: what is scored never depends on where the weights came from.
        judges = object.__new__(cls)
        shape = tuple(train.images.shape[1:])
        judges.measure, judges.classify, judges.second = Predictor(shape, 1), Predictor(shape, 10, classify=True), Residual()
        for name, state in torch.load(file, map_location=device, weights_only=True).items():
            network = getattr(judges, name)
            network.load_state_dict(state)
            network.to(device).eval()
        return judges


class Residual(nn.Module):
    """A residual network with large kernels, read by the mean over positions."""

    shift: Tensor
    scale: Tensor

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def layer(before: int, after: int, kernel: int, stride: int) -> nn.Module:
            convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2)
            return nn.Sequential(convolution, nn.GroupNorm(8, after), nn.GELU())

        self.first, self.second = layer(1, width, 7, 1), layer(width, width, 5, 1)
        self.third, self.fourth = layer(width, 2 * width, 5, 2), layer(2 * width, 2 * width, 3, 1)
        self.output = nn.Linear(2 * width, 1)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, H, W]`` to ``[N]``."""
        h = self.first(x)
        h = self.third(h + self.second(h))
        h = h + self.fourth(h)
        return self.output(h.mean((-2, -1)))[:, 0] * self.scale + self.shift

    def fit(self, images: Tensor, targets: Tensor, epochs: int) -> None:
        """Trains on real images in random brightness and orientation."""
        targets = targets[:, 0]
        self.shift.copy_(targets.mean())
        self.scale.copy_(targets.std())
        steps = len(images) // 64
        optimizer = torch.optim.AdamW(self.parameters(), 2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * steps)
        augment = nn.Sequential(RandomBrightness(), RandomSymmetry())
        for _ in range(epochs):
            for index in torch.randperm(len(images), device=images.device)[: steps * 64].split(64):
                loss = ((self(augment(images[index])) - targets[index]) / self.scale).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.eval()

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """``[N, 1, H, W]`` to ``[N]``, on the images' device."""
        return torch.cat([self(part.to(self.shift.device)) for part in images.split(512)]).to(images.device)
