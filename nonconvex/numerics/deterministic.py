"""Sums, products and random numbers with the same bits whatever the blocks, order and cores.

*Sums in a fixed order* (`total`, `PartialSums`), for sums over the rows of a side: the sum of m
values is that of the sums of each `CHUNK` of them, by index.  The holder of a range of rows sums
the chunks within it, and passes on the values of chunks that it holds in part.

*Exact sums* (`add_exactly`), where rows have no order, as in metrics: a double x = m 2ᵉ with
1/2 ≤ |m| < 1 is q 2^(e−53) with an integer q of at most 53 bits.  Integers of one exponent are
added as integers, and Python's fractions add up the at most 2,100 exponents.

*One thread per matrix product* (`one_thread_per_product`): a BLAS with several threads cuts the
matrices by their number, and rounds differently at the cuts.  With one and with two threads
OpenBLAS 0.3 gave different bits in most products of minibatches, down to 128 × 64 × 100 in float32.
So each product is made by one thread, and the cores make several at a time.

*Counter-based random numbers* (`Stream`, `normal_rows`, `uniform_rows`): the numbers of a row
depend on the stream and on the number of the row alone, so that any executor can draw those of its
own rows.  A counter is hashed to 64 random bits, and two of these make two normal numbers.

*Kernels* (`choose_kernel`): numpy, or compiled loops of the same formulas in another order, which
agree to rounding, and not to the bit.  With numpy, products of matrices are those of its BLAS,
whose order of additions depends on the processor (`core_of`).  Compiled loops have an order of
their own, see `nonconvex.numerics.compiled.lanes`.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Doubles, Floats, Ints

CHUNK = 1 << 10
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
ROW = np.uint64(0xD1342543DE82EF95)  # odd, so that distinct rows begin at distinct counters

T = TypeVar("T")
R = TypeVar("R")
Kernel = Literal["numpy", "compiled"]
Totals = dict[tuple[int, int], int]
"""Σ q by group and exponent e."""

_LOW_BITS = 28  # of q, so that floats hold sums of its halves exactly, up to 2²⁵ values
_MOST = 1 << 25
_TABLE = 1 << 18  # most groups and exponents that are counted in a table of all there could be


class OrderedMap(Protocol):
    """`map`, or ``ThreadPoolExecutor.map``: results come in the order of the arguments."""

    def __call__(self, function: Callable[[T], R], values: Iterable[T], /) -> Iterable[R]:
        """Apply a function to every value."""


class PartialSums(NamedTuple):
    """Sums of s quantities over the rows first, first + 1, …, with partial chunks left open."""

    first: int  # index of the first row
    head: Doubles  # (s, h): values of the rows before the first whole chunk
    chunks: Doubles  # (s, c): the sums of whole chunks
    tail: Doubles  # (s, t): values of the rows after the last whole chunk

    @classmethod
    def of(cls, first: int, values: Doubles) -> PartialSums:
        """Sum the whole chunks of values of shape (s, rows)."""
        rows = values.shape[1]
        start = min(-first % CHUNK, rows)
        stop = start + (rows - start) // CHUNK * CHUNK
        chunks = np.stack([_chunk_sums(of_one) for of_one in values[:, start:stop]])
        return cls(first, values[:, :start], chunks, values[:, stop:])


def total(values: Doubles) -> float:
    """Sum the values of all rows of a side, of shape (m,).

    Examples
    --------
    >>> total(np.arange(2000.0))
    1999000.0
    """
    return float(_chunk_sums(values).sum())


def squared_moves(after: Floats, before: Floats) -> Doubles:
    """Return ‖x_after − x_before‖² of each row, from arrays of shape (r, 1 + K)."""
    squares = np.empty(len(after))
    for first in range(0, len(after), CHUNK):  # so that differences stay in a near cache
        some = slice(first, first + CHUNK)
        change = after[some].astype(np.float64) - before[some]
        np.einsum("rk,rk->r", change, change, out=squares[some])
    return squares


def complete(parts: Sequence[PartialSums]) -> list[float]:
    """Return `total` of each of s quantities, from partial sums that cover all rows."""
    ordered = sorted(parts, key=lambda part: part.first)
    return [_complete_one(ordered, number) for number in range(len(ordered[0].head))]


def _complete_one(ordered: Sequence[PartialSums], number: int) -> float:
    sums: list[Doubles] = []
    open_chunk: list[Doubles] = []
    for part in ordered:
        head, chunks, tail = part.head[number], part.chunks[number], part.tail[number]
        open_chunk.append(head)
        if (part.first + len(head)) % CHUNK == 0:
            sums += [_chunk_sums(np.concatenate(open_chunk)), chunks]
            open_chunk = [tail]
    sums.append(_chunk_sums(np.concatenate(open_chunk)) if open_chunk else np.zeros(0))
    return float(np.concatenate(sums).sum())


def _chunk_sums(values: Doubles) -> Doubles:
    starts = np.arange(0, len(values), CHUNK)
    return np.add.reduceat(np.ascontiguousarray(values), starts)


def add_exactly(totals: Totals, groups: Ints, values: Doubles) -> Totals:
    """Add finite values (n,) to the totals of their groups (n,), and return the totals.

    A group is 0 ≤ group < 2⁵⁰.  The totals are changed in place; begin with ``{}``.
    """
    for start in range(0, len(values), _MOST):
        part = slice(start, start + _MOST)
        mantissa, exponent = np.frexp(values[part])
        whole = np.ldexp(mantissa, 53).astype(np.int64)
        first, least = int(groups[part].min()), int(exponent.min())
        width = int(exponent.max()) - least + 1
        place = (groups[part].astype(np.int64) - first) * width + (exponent - least)
        distinct = None
        if place.max() >= _TABLE:  # else nothing need be sorted
            distinct, place = np.unique(place, return_inverse=True)
        high = np.bincount(place, whole >> _LOW_BITS)
        low = np.bincount(place, whole & (2**_LOW_BITS - 1))
        if distinct is None:
            distinct = np.flatnonzero(np.bincount(place))
            high, low = high[distinct], low[distinct]
        for key, *halves in zip(distinct.tolist(), high.tolist(), low.tolist(), strict=True):
            group, exponent_of = divmod(key, width)
            place_of = group + first, exponent_of + least
            q = (int(halves[0]) << _LOW_BITS) + int(halves[1])
            totals[place_of] = totals.get(place_of, 0) + q
    return totals


def fractions_of(totals: Mapping[tuple[int, int], int]) -> dict[int, Fraction]:
    """Return the sum of each group; ``float`` of it is the double nearest to it."""
    sums: dict[int, Fraction] = {}
    for (group, exponent), q in totals.items():
        sums[group] = sums.get(group, Fraction()) + q * Fraction(2) ** (exponent - 53)
    return sums


class KernelError(RuntimeError):
    """A compiled kernel is asked for where there is no numba."""

    exit_status = 2


@cache
def _missing() -> str:
    """Return the reason why nothing can be compiled here, empty if it can."""
    try:
        importlib.import_module("numba")
    except ImportError as error:
        return str(error)
    return ""


def choose_kernel(asked: str) -> Kernel:
    """Return the kernel that "auto", "numpy" or "compiled" stands for in this process.

    Raises `KernelError` for "compiled" without numba.
    """
    if asked == "compiled":
        require(asked)
    return "numpy" if asked == "numpy" or _missing() else "compiled"


def require(kernel: str) -> None:
    """Raise `KernelError` if a kernel does not work in this process."""
    if kernel == "compiled" and (missing := _missing()):
        raise KernelError(
            f"compiled kernels need numba in every Python of the application, and one lacks it "
            f"({missing}): install nonconvex[fast] there, or set kernel='numpy'"
        )


def core_of(kernel: Kernel) -> str:
    """Return the type of processor that the bits of a kernel depend on, "any" if on none.

    For numpy it is the one that OpenBLAS has found, such as "Haswell", or "unknown".
    """
    if kernel == "compiled":
        return "any"
    corename = _openblas_function("get_corename")
    if corename is None:
        return "unknown"
    corename.restype = ctypes.c_char_p
    return str(corename().decode())


def openblas() -> ctypes.CDLL:
    """Return numpy's library, which finds symbols of linked ones, such as its BLAS, too."""
    return ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)


def _openblas_function(name: str) -> Any:
    """Return a function of numpy's OpenBLAS, None if numpy has another BLAS."""
    library = openblas()
    for prefix in ("scipy_openblas", "openblas"):  # in numpy's wheels, and elsewhere
        for suffix in ("64_", ""):
            if hasattr(library, full := f"{prefix}_{name}{suffix}"):
                return getattr(library, full)
    return None


_get_threads = _openblas_function("get_num_threads")
_set_threads = _openblas_function("set_num_threads")
_lock = threading.Lock()
_inside, _before = 0, 1


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Keep numpy's matrix products to one thread each while in the context.

    The setting holds for the whole process.  Contexts may overlap, also among threads; the last one
    restores the number.  Another BLAS than OpenBLAS (MKL, Accelerate) is not touched: set its own
    variable, such as ``MKL_NUM_THREADS=1``, for equal bits.
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1 and _get_threads is not None:
            _before = _get_threads()
            _set_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _set_threads is not None:
                _set_threads(_before)


class Stream(NamedTuple):
    """Two words of 64 bits that identify a stream of random numbers."""

    first: int
    second: int

    @classmethod
    def of(cls, seed: int, *key: int) -> Stream:
        """Return the stream of a seed and of integers ≥ 0 that identify its use."""
        first, second = _sequence(seed, key).generate_state(2, np.uint64).tolist()
        return cls(first, second)

    @staticmethod
    def generator(seed: int, *key: int) -> np.random.Generator:
        """Return a sequential generator of the same seed and integers."""
        return np.random.default_rng(_sequence(seed, key))


def normal_rows(stream: Stream, rows: Ints, width: int) -> Doubles:
    """Return `width` independent standard normal numbers for each row, of shape (r, width).

    Rows are numbers (r,) of up to 64 bits.  Equal ones have equal numbers, whatever the others are.

    References
    ----------
    Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators; Box and Muller
    (1958), A note on the generation of random normal deviates.

    Examples
    --------
    >>> stream = Stream.of(42, 0)
    >>> both, one = normal_rows(stream, np.array([7, 9]), 3), normal_rows(stream, np.array([9]), 3)
    >>> bool(np.all(both[1] == one[0]))
    True
    """
    pairs = (width + 1) // 2
    bits = _bits(stream, rows, 2 * pairs)
    # 53 bits each: one in (0, 1], whose logarithm is finite, and one in [0, 1)
    radius = np.sqrt(-2 * np.log(((bits[:, :pairs] >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))
    angle = 2 * np.pi * ((bits[:, pairs:] >> np.uint64(11)) * 2.0**-53)
    normals = np.hstack([radius * np.cos(angle), radius * np.sin(angle)])
    return np.ascontiguousarray(normals[:, :width])


def uniform_rows(stream: Stream, rows: Ints, width: int) -> Doubles:
    """Return `width` independent numbers for each row, uniform in [0, 1), of shape (r, width)."""
    whole = (_bits(stream, rows, width) >> np.uint64(11)).astype(np.float64)  # exact: 53 bits
    return whole * 2.0**-53


def _bits(stream: Stream, rows: Ints, width: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each of `width` numbers of each row."""
    begin = scramble(rows.astype(np.uint64) * ROW + np.uint64(stream.first))
    steps = np.arange(width, dtype=np.uint64) * GOLDEN
    return scramble(scramble(begin[:, None] + steps) ^ np.uint64(stream.second))  # (r, width)


def _sequence(seed: int, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed & (2**64 - 1), spawn_key=key)


def scramble(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits, one to one: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * MULTIPLIERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * MULTIPLIERS[1]
    return bits ^ (bits >> np.uint64(31))
