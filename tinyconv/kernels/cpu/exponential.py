"""e^x in float32 as plain arithmetic: the C library's is a call, which no loop of vectors can contain.

e^x = 2^n e^r with n = round(x / log 2) and r = x - n log 2, |r| <= log(2)/2, where a polynomial of degree 7 gives e^r.
log 2 is taken off in two parts, of which the first has few digits, so that its multiple is exact. The result is within
1 unit in its last place. Source: the constants of expf in Moshier, Cephes mathematical library, 1992.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_f = np.float32
_LOG2E, _MAGIC = _f(1.44269504088896341), _f(3 << 22)  # adding 1.5 2^23 rounds to a whole number
_HIGH, _LOW = _f(0.693359375), _f(-2.12194440e-4)
_P0, _P1, _P2 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_P3, _P4, _P5 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)
_ONE, _LEAST, _MOST = _f(1), _f(-104), _f(89)  # beyond them 0 and infinity


@njit(nogil=True, cache=True)
def _parts(x):  # type: ignore[no-untyped-def]
    """e^r - 1, and 2^n in two factors: each has a float32 where 2^n is infinite or subnormal."""
    z = _LEAST if x < _LEAST else x
    z = _MOST if z > _MOST else z
    n = (z * _LOG2E + _MAGIC) - _MAGIC
    r = z - n * _HIGH - n * _LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    whole = np.int32(n) if n == n else np.int32(0)
    half = whole >> 1
    first = np.int32((half + 127) << 23).view(np.float32)
    second = np.int32((whole - half + 127) << 23).view(np.float32)
    return p * r * r + r, first, second


@njit(nogil=True, cache=True)
def exp(x):  # type: ignore[no-untyped-def]
    """e^x of a float32."""
    more, first, second = _parts(x)
    return (more + _ONE) * first * second


@njit(nogil=True, cache=True)
def expm1(x):  # type: ignore[no-untyped-def]
    """e^x - 1 of a float32, to the last digits near 0 too: 2^n (e^r - 1) + (2^n - 1)."""
    more, first, second = _parts(x)
    return more * first * second + (first * second - _ONE)
