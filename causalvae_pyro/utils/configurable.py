"""Modules that remember how they were made, so that a checkpoint can make them again without pickling code."""

from __future__ import annotations

import functools
import inspect
from numbers import Integral
from typing import Any

__all__ = ["Configurable", "check_count"]


def check_count(argument: str, value: Any, other: str = "") -> None:
    """Raises a ``ValueError`` unless the value is a whole number, at least 1; ``other`` says what else is valid."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{argument}: got {value!r}; must be an integer, at least 1{other}")
    if value < 1:
        raise ValueError(f"{argument}: got {value}; must be at least 1{other}")


class Configurable:
    """Mixin that records the arguments of the outermost constructor call in ``self.init_args``.

    The recorded arguments are what :mod:`causalvae_pyro.checkpoints.runs` writes to ``config.json``; they may be numbers,
    strings, booleans, ``None``, (nested) lists of these, a :class:`~causalvae_pyro.CausalGraph` or another configurable
    module.
    """

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]


def _recording(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        # Base classes' constructors run inside the outermost one and must not overwrite its record. The record goes
        # past nn.Module.__setattr__, which would register modules among the arguments a second time.
        if "init_args" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            arguments = dict(list(bound.arguments.items())[1:])
            for name, parameter in signature.parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    arguments.update(arguments.pop(name, {}))
                elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and name in arguments:
                    # Everything up to *args has to be given by position again.
                    arguments = {"*": list(bound.args[1:]), **bound.kwargs}
                    break
            self.__dict__["init_args"] = arguments
        init(self, *args, **kwargs)

    return wrapper
