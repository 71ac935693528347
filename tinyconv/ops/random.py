"""The one source of randomness: a seeded NumPy generator that every random function uses unless it is given another."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Used wherever ``generator=None``. One object for the whole process; drawing from it holds its lock, so threads may
#: share it.
_default = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """Start the default generator again from ``seed``, a non-negative int, and return it. The same seed gives the
    same bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"manual_seed: seed must be an int, but is {seed!r}.")
    if seed < 0:
        raise ValueError(f"manual_seed: seed must not be negative, but is {seed}.")
    _default.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    return _default


def get_rng_state() -> dict[str, Any]:
    """The state of the default generator, as a dict of names, strings and ints: for a checkpoint."""
    return dict(_default.bit_generator.state)


def set_rng_state(new_state: dict[str, Any]) -> None:
    """Put the default generator where :func:`get_rng_state` found it."""
    _default.bit_generator.state = new_state


def generator_for(op: str, generator: np.random.Generator | None) -> np.random.Generator:
    """``generator``, or the default one where it is None."""
    if generator is None:
        return _default
    if not isinstance(generator, np.random.Generator):
        raise TypeError(
            f"{op}: generator must be a numpy.random.Generator or None, but is {type(generator).__name__}. "
            f"Use numpy.random.default_rng(seed)."
        )
    return generator
