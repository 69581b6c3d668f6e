"""The training history: one row per epoch."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field

from causalvae_pyro.utils.files import write_text

__all__ = ["History"]


@dataclass
class History:
    """One row per epoch: ``epoch``, ``step``, ``seconds``, ``images_per_second``, ``lr``, ``loss`` and the loss's terms.

    With images held out also ``validation_loss`` and ``validation_`` with each term's name, by the weights at the epoch's end.

    Losses and terms are means per image over the epoch. ``seconds`` count from the start of the training, without the time
    between a stop and the resumption.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, column: str) -> list[float]:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the rows, atomically."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(path, buffer.getvalue())
