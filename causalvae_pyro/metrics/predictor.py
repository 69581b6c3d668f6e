"""Independent predictors, trained on real images, that read labels from counterfactual ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.utils.images import check_images, scale_images
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.progress import tracked

__all__ = ["Predictor"]

# Of the correction of the output layer, in units of the features' mean variance.
_RIDGE = 1e-3


class Predictor(nn.Module):
    """A small convolutional network for regression or classification, the judge of *effectiveness*.

    It shares nothing with the model under test and sees real images only (Monteiro et al. 2023; Melistas et al. 2024).
    Batches go to the device of its parameters, and what it finds comes back to that of the images.

    Args:
        image_shape: ``(C, H, W)``, sides divisible by 4.
        outputs: Number of regression targets or of classes.
        classify: Predict one of ``outputs`` classes instead of ``outputs`` numbers.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, image_shape: Sequence[int], outputs: int, *, classify: bool = False) -> None:
        super().__init__()
        channels, height, width_of_image = image_shape
        if height % 4 or width_of_image % 4:
            raise ValueError(f"image_shape: got {tuple(image_shape)}; the sides must be divisible by 4")
        self.classify = classify
        layers: list[nn.Module] = []
        before = channels
        for width, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.convolutions = nn.Sequential(*layers)
        # Classes are shapes, and where something is matters to them; what is measured is read alike everywhere.
        pooled, places = 2 * before, before * (height // 4) * (width_of_image // 4)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(pooled + (places if classify else 0), outputs)
        self.register_buffer("shift", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))

    @torch.no_grad()
    def features(self, images: Tensor, *, batch_size: int = 512) -> Tensor:
        """What the output is a linear function of, ``[N, f]``: a space in which distances between images mean something.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
            batch_size: Images per pass.
        """
        return self._batched(self._features, images, batch_size)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
        check_images(images, "images")
        with evaluation_mode(self):
            return torch.cat([function(part) for part in images.split(batch_size)]).to(images.device)

    def _scaled(self, images: Tensor) -> Tensor:
        return scale_images(images, "images", device=self.shift.device, dtype=self.shift.dtype)

    def _features(self, x: Tensor) -> Tensor:
        h = self.convolutions(self._scaled(x))
        features = torch.cat([h.mean((-2, -1)), h.amax((-2, -1))], -1)
        return self.dropout(torch.cat([features, h.flatten(1)], -1)) if self.classify else features

    def forward(self, x: Tensor) -> Tensor:
        """Numbers ``[N, outputs]`` in the targets' units, or class logits ``[N, outputs]``."""
        return self.output(self._features(x)) * self.scale + self.shift

    @torch.inference_mode(False)
    def fit(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        epochs: int = 12,
        batch_size: int = 64,
        lr: float = 6e-3,
        augment: Callable[[Tensor], Tensor] | None = None,
        augment_pairs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        """Trains on real images, and leaves the predictor in evaluation mode.

        Args:
            images: ``[N, C, H, W]``, uint8 or in [0, 1].
            targets: ``[N, outputs]`` numbers, NaN where missing, or ``[N]`` classes.
            epochs: Passes over the data.
            batch_size: Images per step. An epoch leaves out what does not fill a batch, for the batch normalisation's sake.
            lr: Peak learning rate of AdamW in a one-cycle schedule (Smith & Topin 2018).
            augment: Random change of a batch of images that leaves the targets as they are.
            augment_pairs: Random change of images that changes their targets too, ``(images, targets)`` to the same.
            seed: Fixes the order of the data.
            progress: Show a progress bar.

        Raises:
            ValueError: If no value of a target is known.
        """
        check_images(images, "images")
        batch_size, device = min(batch_size, len(images)), self.shift.device
        if not self.classify:
            shift, scale = _standardisation(targets)
            self.shift.copy_(shift)
            self.scale.copy_(scale)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=2e-2)
        steps = len(images) // batch_size
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps)
        self.train()
        for _ in tracked(epochs, "predictor", unit="epoch", show=progress):
            for index in torch.randperm(len(images), generator=generator)[: steps * batch_size].split(batch_size):
                x, target = self._scaled(images[index]), targets[index].to(device)
                x = x if augment is None else augment(x)
                x, target = (x, target) if augment_pairs is None else augment_pairs(x, target)
                output = self(x)
                if self.classify:
                    error = F.cross_entropy(output, target, label_smoothing=0.05)
                else:
                    error = self._squared_error(output, target)
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
                schedule.step()
        self.eval()
        if not self.classify:
            self._calibrate(images, targets, augment, augment_pairs)

    @torch.no_grad()
    def _calibrate(
        self,
        images: Tensor,
        targets: Tensor,
        augment: Callable[[Tensor], Tensor] | None,
        augment_pairs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    ) -> None:
        """Ridge regression of what the output layer leaves, in evaluation mode.

        Means over a batch and running means differ by more than they should for numbers: readings were off by a constant.
        """
        features, left = [], []
        for x, target in zip(images.split(512), targets.split(512), strict=True):
            x, target = self._scaled(x), target.to(self.shift.device)
            x = x if augment is None else augment(x)
            x, target = (x, target) if augment_pairs is None else augment_pairs(x, target)
            # In double precision, which not every device has.
            features.append(self._features(x).cpu().double())
            left.append(((target - self(x)) / self.scale).cpu().double())
        inputs, residuals = torch.cat(features), torch.cat(left)
        for i, residual in enumerate(residuals.T):
            known = ~residual.isnan()
            own, residual = inputs[known], residual[known]
            mean, centred = own.mean(0), own - own.mean(0)
            gram = centred.T @ centred
            # The constant is free; the rest has to be worth its size.
            penalty = _RIDGE * gram.trace() / len(gram) + torch.finfo(gram.dtype).eps
            weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), centred.T @ residual)
            self.output.weight[i] += weight.to(self.output.weight)
            self.output.bias[i] += (residual.mean() - mean @ weight).to(self.output.bias)

    def _squared_error(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over the known targets of a batch, standardised."""
        known = ~target.isnan()
        errors = ((output - target.nan_to_num()) / self.scale).square() * known
        return errors.sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch_size: int = 512) -> Tensor:
        """Numbers ``[N, outputs]``, or classes ``[N]``, for images in [0, 1] or uint8."""
        output = self._batched(self, images, batch_size)
        return output.argmax(-1) if self.classify else output


def _standardisation(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the known values of each target."""
    columns = [column[~column.isnan()].double() for column in targets.T]
    if unknown := [i for i, column in enumerate(columns) if not len(column)]:
        raise ValueError(f"targets: all values of column {unknown[0]} are missing; each target needs some")
    shift = torch.stack([column.mean() for column in columns])
    spread = torch.stack([column.std() if len(column) > 1 else column.new_zeros(()) for column in columns])
    # A constant target is exact already, and must not be divided by 0.
    return shift, torch.where(spread > 0, spread, 1.0)
