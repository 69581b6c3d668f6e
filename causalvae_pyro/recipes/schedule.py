"""How long a decoder is trained on images of one's own."""

from __future__ import annotations

import math

__all__ = ["usual_schedule"]

#: Sprites that pass before each other want many steps (docs/notes.md).
_BATCH_SIZE = 32
#: Steps that a training takes at least, however few the images are, within so many epochs.
_FEWEST_STEPS = {"conv": 2500, "sprites": 2500, "scene": 2500, "backdrop": 1000, "hierarchical": 1000}
_MOST_EPOCHS = 400
#: Basis, noise and reading of the bilinear decoder have closed forms.
_BILINEAR = 3


def usual_schedule(decoder: str, count: int, *, epochs: int = 12, batch_size: int | None = None) -> tuple[int, int]:
    """Epochs, and images per step: enough steps, however few the images are.

    Args:
        decoder: That of the :class:`Recipe`.
        count: Training images, at least 1. Where they are fewer than those of a step, a step takes all of them (an even number,
            for pairs).
        epochs: At least so many, but for the bilinear decoder.
        batch_size: Images per step; by default 32.

    Raises:
        ValueError: If there is no such decoder; what ``"auto"`` has chosen is in the run's configuration.
    """
    if decoder != "bilinear" and decoder not in _FEWEST_STEPS:
        raise ValueError(f"decoder: got {decoder!r}; valid: {', '.join(map(repr, _FEWEST_STEPS))}, 'bilinear'")
    size = min(_BATCH_SIZE, max(count - count % 2, 1)) if batch_size is None else batch_size
    if decoder == "bilinear":
        return _BILINEAR, size
    needed = math.ceil(_FEWEST_STEPS[decoder] / max(count // max(size, 1), 1))
    return max(epochs, min(needed, _MOST_EPOCHS)), size
