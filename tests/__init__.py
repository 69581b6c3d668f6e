"""The tests, in folders that mirror the package."""

from pathlib import Path

#: The project's root.
ROOT = Path(__file__).parent.parent
