"""What ``causalvae train`` trains on, from its options."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from causalvae_pyro.datasets.registry import FOLDER, PUBLISHED, SIMULATORS

__all__ = ["describe"]

# Which published data sets take which options beside root and size.
_OPTIONS = {"celeba": ("group", "crop"), "morphomnist": ("categorical",), "yaleb": ()}


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """The description of the data that a run keeps, as :func:`~causalvae_pyro.datasets.registry.load_dataset` takes it.

    Args:
        arguments: Of the command.

    Raises:
        ValueError: If the options name no data, or do not fit them.
    """
    own = {name: getattr(arguments, name) for name in ("images", "labels", "graph")}
    given = [f"--{name}" for name, path in own.items() if path is not None]
    given += [
        f"--{name.replace('_', '-')}" for name in ("unit", "mode", "split_by", "group_by", "rename") if getattr(arguments, name)
    ]
    if arguments.size is not None and (arguments.size < 16 or arguments.size % 16):
        raise ValueError(f"--size: got {arguments.size}; must be a multiple of 16")
    # The digits are 28 x 28.
    usual = 32 if arguments.data == "morphomnist" else 64
    common = {"size": usual if arguments.size is None else arguments.size, "seed": arguments.seed}
    if arguments.data not in SIMULATORS and (arguments.noise or arguments.partition != "iid"):
        option = f"--noise: got {arguments.noise}" if arguments.noise else f"--partition: got {arguments.partition}"
        raise ValueError(f"{option}; it is for simulators ({', '.join(sorted(SIMULATORS))})")
    published = {name: getattr(arguments, name) for name in ("root", "group", "crop") if getattr(arguments, name) is not None}
    if arguments.data in PUBLISHED and not given:
        if arguments.categorical:
            published["categorical"] = arguments.categorical
        return _published(arguments.data, published, common)
    given += ["--categorical"] if arguments.categorical else []
    given += [f"--{name}" for name in published]
    if arguments.data is not None and not given:
        return {"name": arguments.data, "noise": arguments.noise, "partition": arguments.partition, **common}
    if arguments.data is None and None not in own.values() and not published:
        units = _pairs("--unit", arguments.unit, "CONCEPT=UNIT, e.g. thickness=px")
        paths = {name: os.path.abspath(path) for name, path in own.items()}
        options = {"units": units, "rename": _pairs("--rename", arguments.rename, "COLUMN=CONCEPT, e.g. 5_o_Clock_Shadow=shadow")}
        options |= {name: getattr(arguments, name) for name in ("mode", "split_by", "group_by")}
        options["categories"] = arguments.categorical
        return {"name": FOLDER, **paths, **{name: value for name, value in options.items() if value}, **common}
    what = " and ".join(([arguments.data] if arguments.data else []) + given) or "neither"
    raise ValueError(
        f"data: got {what}; give a simulator ({', '.join(sorted(SIMULATORS))}), "
        f"one of {', '.join(sorted(PUBLISHED))} with --root, or all of --images, --labels and --graph"
    )


def _published(name: str, given: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """A published data set in a folder of the user's."""
    if "root" not in given:
        raise ValueError(f"--root: got nothing; {name} takes the folder that its files are in")
    if foreign := [option for option in given if option != "root" and option not in _OPTIONS[name]]:
        raise ValueError(f"--{foreign[0]}: got {given[foreign[0]]}; {name} has no such option")
    if (categories := given.pop("categorical", None)) is not None:
        if set(categories) != {"digit"}:
            raise ValueError(f"--categorical: got {', '.join(categories)}; {name} has one such concept, digit")
        given["digit"] = True
    return {"name": name, **given, "root": os.path.abspath(given["root"]), **common}


def _pairs(option: str, given: Sequence[str] | None, form: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    result: dict[str, str] = {}
    for text in given or ():
        name, _, value = (part.strip() for part in text.partition("="))
        if not value:
            raise ValueError(f"{option}: got {text!r}; expected {form}")
        if name in result:
            raise ValueError(f"{option}: {name!r} is given twice")
        result[name] = value
    return result
