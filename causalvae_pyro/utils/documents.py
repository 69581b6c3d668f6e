"""JSON and YAML from files, where what is given twice or nested without end is an error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["parse_json", "read_document"]


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: If it is no JSON, an object has a key twice, or it is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_document(path: Path) -> Any:
    """What a ``.json``, ``.yaml`` or ``.yml`` file says.

    Raises:
        ValueError: If it is neither by its name or its content, a mapping has a key twice, or it is nested too deeply.
        OSError: If the file cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return parse_json(text)
    if path.suffix in (".yaml", ".yml"):
        return _parse_yaml(text)
    raise ValueError(f"unknown kind of file {path.suffix!r}; valid: .json, .yaml, .yml, .csv")


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{key!r} is given twice")
        result[key] = value
    return result


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError("reading YAML needs the package pyyaml; install it, or write the graph as JSON") from None

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            # Keys that are no scalars are refused by what is overridden.
            _unique((key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
