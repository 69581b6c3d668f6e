"""Requests of the live page and their answers, as plain values, apart from the network."""

from __future__ import annotations

import base64
import io
import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from causalvae_pyro.explore.answers import Answer, Explorer, Factual
from causalvae_pyro.explore.images import read_image
from causalvae_pyro.explore.picture import panels, plot_answer
from causalvae_pyro.explore.ranges import FORMATS, Sweep, effect_maps, encode_frames, sweep_concept
from causalvae_pyro.explore.snippet import python_lines
from causalvae_pyro.plots.style import SEQUENTIAL, figure_style
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.pyro_lock import pyro_lock
from causalvae_pyro.utils.unseen_pairs import asks_for, pair_text

__all__ = ["Session", "encode_png"]

#: Abducted images that are remembered.
_REMEMBERED = 64
#: Test images that the page offers at a glance.
_THUMBNAILS = 12
#: Values of a sweep side by side, and one way through an animation.
_STRIP, _FRAMES = 9, 24


class Session:
    """One run being explored. Its methods may be called from several threads.

    Args:
        explorer: What answers.
        path: Directory of the run, for the title and for the lines of Python.
    """

    def __init__(self, explorer: Explorer, path: str | os.PathLike) -> None:
        self.explorer, self.path = explorer, os.fspath(path)
        self._factuals: OrderedDict[int | str, Factual] = OrderedDict()
        self._own = 0
        # Taken first, whatever else is locked: Pyro's stack of handlers is one for the whole process.
        self._lock = pyro_lock

    def describe(self) -> dict[str, Any]:
        """What the page needs to know once: the concepts with their ranges and units, the graph, which images there are."""
        explorer = self.explorer
        count = len(explorer)
        shown = min(_THUMBNAILS, count)
        concepts = [
            {
                "name": c.name,
                "unit": c.unit,
                "ends": c.ends(),
                "beyond": c.ends(beyond=True),
                "step": c.step,
                "digits": c.digits,
            }
            for c in explorer.concepts
        ]
        return {
            "title": os.path.basename(os.path.abspath(self.path)),
            "data": type(explorer.data).__name__,
            "concepts": concepts,
            "levels": explorer.graph.levels,
            "edges": explorer.graph.edges,
            "count": count,
            # Evenly spaced: neighbours on a grid of labels are alike.
            "thumbnails": [i * count // shown for i in range(shown)],
            "truth": explorer.has_truth,
            "samples": explorer.samples,
            "size": explorer.shape[1:],
        }

    def thumbnail(self, index: int) -> bytes:
        """A test image as PNG.

        Raises:
            ValueError: If there is no such image.
        """
        if not 0 <= index < len(self.explorer):
            raise ValueError(f"index: got {index}; the test images are 0 to {len(self.explorer) - 1}")
        return encode_png(self.explorer.data.images[index])

    def add_image(self, content: bytes, name: str) -> dict[str, Any]:
        """Adds an uploaded image.

        Args:
            content: What is in the file.
            name: Name of the file.

        Returns:
            ``image``: what to ask about it by.

        Raises:
            ValueError: If it cannot be read.
        """
        name = os.path.basename(name.replace("\\", "/")) or "image"
        image = read_image(content, self.explorer.shape)
        with self._lock:
            self._own += 1
            key = f"own-{self._own}"
            self._remember(key, self.explorer.own_image(image, name))
        return {"image": key, "name": name}

    def answer(self, question: Any) -> dict[str, Any]:
        """Answers a question of the page.

        Args:
            question: ``image`` (an index, or what :meth:`add_image` gave), ``do`` (concept to value, in label units) and
                perhaps ``uncertainty`` and ``detail``.

        Returns:
            ``panels``, titles with pictures as data URLs; ``concepts``, a row of numbers for each; ``moved``; ``detail``,
            whether there is some that could be kept;
            ``unseen``, what it asks for that hardly any training image shows; ``code``, the lines of Python; and with
            uncertainty ``deviation``, the largest one in grey levels.

        Raises:
            ValueError: If the question is malformed, or an image or a concept unknown.
        """
        with self._lock:
            factual, do, options = self._understand(question)
            answer = self.explorer.answer(factual, do, **options)
        pictures = [{"title": title, "image": _data_url(encode_png(image))} for title, image in panels(factual, answer).items()]
        result: dict[str, Any] = {
            "moved": answer.moved,
            "unseen": self._unseen(answer),
            "code": python_lines(self.explorer, factual, do, self.path, **options),
            "detail": factual.detail is not None,
        }
        spread = answer.uncertainty
        if spread is not None:
            largest = spread.image.max().item()
            pictures.append({"title": "standard deviation", "image": _data_url(_heat_map(spread.image, largest))})
            result["deviation"] = 255 * largest
        truth = None if factual.labels is None else factual.labels.tolist()
        rows = []
        for c in self.explorer.concepts:
            row: dict[str, float | None] = {"before": factual.concepts.get(c.name), "after": answer.concepts.get(c.name)}
            if truth is not None:
                row["label"] = truth[self.explorer.data.graph.index(c.name)]
            if answer.true_concepts is not None:
                row["true"] = answer.true_concepts[c.name]
            if spread is not None and spread.concepts:
                row["deviation"] = spread.concepts[c.name]
            # JSON knows no NaN.
            rows.append({key: value for key, value in row.items() if value is not None and math.isfinite(value)})
        return result | {"panels": pictures, "concepts": rows}

    def _unseen(self, answer: Answer) -> list[str]:
        pairs, names = self.explorer.run.config.get("unseen", ()), list(answer.concepts)
        if not pairs or not names:
            return []
        asked = asks_for(torch.tensor([list(answer.concepts.values())]), names, pairs)[0]
        return [pair_text(pair) for pair, there in zip(pairs, asked, strict=True) if there]

    def sweep(self, question: Any) -> dict[str, Any]:
        """One concept of an image through its range.

        Args:
            question: As for :meth:`answer`, with ``concept``.

        Returns:
            ``concept``; ``values``, in label units; ``frames``, pictures as data URLs; and ``true``, the true ones, where the
            data draw them.

        Raises:
            ValueError: If the question is malformed, or an image or a concept unknown.
        """
        found = self._sweep(question, _STRIP)
        result = {"concept": found.concept, "values": found.values.tolist(), "frames": _data_urls(found.images)}
        return result if found.true_images is None else result | {"true": _data_urls(found.true_images)}

    def animation(self, question: Any) -> tuple[bytes, str]:
        """The same as a file to keep, with its media type; ``format`` of the question is gif, webp or png."""
        kind = question.get("format") if isinstance(question, Mapping) else None
        if not isinstance(kind, str) or kind not in FORMATS:
            raise ValueError(f"format: got {kind!r}; valid: {', '.join(FORMATS)}")
        return encode_frames(self._sweep(question, _STRIP if kind == "png" else _FRAMES).images, kind), FORMATS[kind]

    def effects(self, question: Any) -> dict[str, Any]:
        """Which pixels follow which concept; the question is that of :meth:`answer`.

        Returns:
            ``maps``, a picture for each concept as a data URL, of one scale; and ``largest``, what its brightest pixel stands
            for, in grey levels.
        """
        with self._lock:
            factual, do, _ = self._understand(question)
            maps = effect_maps(self.explorer, factual, do)
        largest = max(values.max().item() for values in maps.values())
        pictures = {name: _data_url(_heat_map(values, largest)) for name, values in maps.items()}
        return {"maps": pictures, "largest": 255 * largest}

    def _sweep(self, question: Any, steps: int) -> Sweep:
        with self._lock:
            factual, do, options = self._understand(question)
            name = question.get("concept")
            if not isinstance(name, str):
                raise ValueError(f"concept: expected the name of a concept, got {name!r}")
            return sweep_concept(self.explorer, factual, do, name, steps, detail=options["detail"])

    def picture(self, question: Any) -> bytes:
        """The answer as one figure, PNG; the argument and the errors are those of :meth:`answer`."""
        with self._lock, figure_style():
            factual, do, options = self._understand(question)
            figure = plot_answer(self.explorer, factual, self.explorer.answer(factual, do, **options))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            # Its parts refer to each other: left alone they stay until Python looks for such circles.
            figure.clear()
        return buffer.getvalue()

    def _understand(self, question: Any) -> tuple[Factual, dict[str, float], dict[str, bool]]:
        if not isinstance(question, Mapping):
            raise ValueError(f"question: expected an object with image and do, got {type(question).__name__}")
        do, options = question.get("do", {}), {name: bool(question.get(name, False)) for name in ("uncertainty", "detail")}
        if not isinstance(do, Mapping):
            raise ValueError(f"do: expected concepts and their values, got {type(do).__name__}")
        return self._factual(question.get("image")), {name: _number(name, value) for name, value in do.items()}, options

    def _factual(self, key: Any) -> Factual:
        if isinstance(key, bool) or not isinstance(key, (int, str)):
            raise ValueError(f"image: expected the index of a test image, got {key!r}")
        if key in self._factuals:
            self._factuals.move_to_end(key)
            return self._factuals[key]
        if isinstance(key, str):
            raise ValueError(f"image: unknown or evicted image id {key!r}; upload it again")
        return self._remember(key, self.explorer.test_image(key))

    def _remember(self, key: int | str, factual: Factual) -> Factual:
        self._factuals[key] = factual
        if len(self._factuals) > _REMEMBERED:
            self._factuals.popitem(last=False)
        return factual


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"do[{name!r}]: expected a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def encode_png(image: Tensor) -> bytes:
    """An image ``[C, H, W]``, uint8 or in [0, 1], as PNG; values beyond are clipped."""
    pixels = (scale_images(image).clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
    return _png(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def _heat_map(values: Tensor, largest: float) -> bytes:
    """Values ``[H, W]`` from 0 to the largest, in colours that colour-blind readers can order."""
    shares = (values / max(largest, 1e-12)).numpy()
    return _png((matplotlib.colormaps[SEQUENTIAL](shares)[..., :3] * 255).round().astype(np.uint8))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Small images for a page on the same machine: less time matters more than fewer bytes.
    Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def _data_urls(images: Tensor) -> list[str]:
    return [_data_url(encode_png(image)) for image in images]


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
