"""Vectors of lanes, and functions that are compiled once for each machine.

A vector is 64 bytes: 16 float32 or 8 float64.  LLVM makes one instruction of it, or several, as the
processor has them, and the numbers of a lane meet in the order that is written here: no compiler
flag that reorders or fuses arithmetic is set.  Products are added by fma(a, b, c) = a b + c, which
is rounded once: IEEE 754 leaves no choice of bits there, in software either.  So results have the
same bits on every processor.

Arrays are flat, and ``a, at`` is the place of a vector in one; `LANES` numbers follow from there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils, event
from numba.extending import intrinsic
from numpy.typing import NDArray

from nonconvex.numerics import Floats

BYTES = 64

_lock = threading.Lock()
_log = logging.getLogger("nonconvex")


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says, once, that a process compiles, as it takes seconds; code from the cache is at once."""

    def __init__(self) -> None:
        self._made = False

    def on_start(self, compilation: event.Event) -> None:
        """Log, unless it is a function of somebody else."""
        function = compilation.data["dispatcher"].py_func
        if not self._made and function.__module__.startswith("nonconvex."):
            self._made = True
            _log.info("compiling kernels for this processor, which takes some seconds")

    def on_end(self, compilation: event.Event) -> None:
        """Say nothing."""


event.register("numba:compile", _Announcement())

_INDEX = ir.IntType(32)


_OPTIONS = {"nogil": True, "error_model": "numpy"}

inner = njit(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Compile a function that only compiled functions call."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, without the interpreter lock, and keep it on disk.

    The code is kept in ``NUMBA_CACHE_DIR`` or else in the user's cache directory, under a digest of
    these modules: numba would only see that the function's own has changed.  Where neither can be
    written, or other users could write, each process compiles for itself.
    """
    with _lock:
        place = _cache()
        if place is None:
            return njit(function, **_OPTIONS)
        before, config.CACHE_DIR = config.CACHE_DIR, str(place)
        try:
            return njit(function, cache=True, **_OPTIONS)
        except RuntimeError:  # no place for a cache
            return njit(function, **_OPTIONS)
        finally:
            config.CACHE_DIR = before


@cache
def _cache() -> Path | None:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return private(Path(config.CACHE_DIR or Path(home) / "nonconvex" / "kernels") / digest)


def private(directory: Path) -> Path | None:
    """Make a directory that only this user can write or replace; None if it cannot be had.

    Code that is read from there is run, so the directories above it count, too: one that
    others write may only be sticky, as ``/tmp`` is.
    """
    try:
        directory = directory.resolve()
        missing = [one for one in (directory, *directory.parents) if not one.exists()]
        for one in reversed(missing):
            one.mkdir(mode=0o700, exist_ok=True)
        found = [one.stat() for one in (directory, *directory.parents)]
    except OSError:
        return None
    others = stat.S_IWGRP | stat.S_IWOTH
    open_to = [one for one in found if one.st_mode & others and not one.st_mode & stat.S_ISVTX]
    mine = all(one.st_uid in (0, os.getuid()) for one in found)
    return directory if mine and not open_to and not found[0].st_mode & others else None


def frozen(array: Any, dtype: Any) -> NDArray[Any]:
    """Return an array that is read only, as loops are compiled anew for one that can be written."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def room(size: int, dtype: np.dtype[Any]) -> Floats:
    """Return zeros that begin at a multiple of `BYTES`, so that no vector straddles two lines."""
    whole = np.zeros(size + BYTES // dtype.itemsize, dtype)
    first = -whole.ctypes.data % BYTES // dtype.itemsize
    return whole[first : first + size]


class _Code:
    """The builder of the instructions of one intrinsic, over vectors of a type of numbers."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder, number = builder, signature.args[0].dtype
        self._arrays = context, builder, signature.args, args
        element = ir.FloatType() if number.bitwidth == 32 else ir.DoubleType()
        self.size = number.bitwidth // 8
        self.vector = ir.VectorType(element, BYTES // self.size)
        self.suffix = f"v{self.vector.count}f{number.bitwidth}"

    def data(self, number: int) -> Any:
        """The address of the array that is an argument."""
        context, builder, types_of, args = self._arrays
        return cgutils.create_struct_proxy(types_of[number])(context, builder, args[number]).data

    def place(self, data: Any, at: Any) -> Any:
        """The address of a vector in an array."""
        return self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())

    def load(self, data: Any, at: Any) -> Any:
        """Load a vector."""
        loaded = self.builder.load(self.place(data, at))
        loaded.align = self.size
        return loaded

    def load_first(self, data: Any, at: Any, count: Any) -> Any:
        """Load at most `count` numbers, followed by zeros; nothing beyond them is touched."""
        lanes = self.vector.count
        numbers = ir.Constant(ir.VectorType(_INDEX, lanes), list(range(lanes)))
        count = self.splat(self.builder.trunc(count, _INDEX), numbers.type)
        mask = self.builder.icmp_signed("<", numbers, count)
        pointer = self.place(data, at)
        kind = ir.FunctionType(self.vector, [pointer.type, _INDEX, mask.type, self.vector])
        name = f"llvm.masked.load.{self.suffix}.p0"
        load = cgutils.get_or_insert_function(self.builder.module, kind, name)
        zeros = ir.Constant(self.vector, [0.0] * lanes)
        return self.builder.call(load, [pointer, _INDEX(self.size), mask, zeros])

    def store(self, value: Any, data: Any, at: Any) -> None:
        """Store a vector."""
        self.builder.store(value, self.place(data, at)).align = self.size

    def splat(self, number: Any, vector: Any = None) -> Any:
        """Return a vector of equal numbers."""
        vector = self.vector if vector is None else vector
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), number, _INDEX(0))
        lanes = ir.Constant(ir.VectorType(_INDEX, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(first, first, lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a b + c, rounded once."""
        bits = 64 if a.type.element == ir.DoubleType() else 32
        kind, name = ir.FunctionType(a.type, [a.type] * 3), f"llvm.fma.v{a.type.count}f{bits}"
        fma = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(fma, [a, b, c])

    def sum(self, value: Any) -> Any:
        """Add the upper half of the lanes to the lower one, until one is left."""
        half = value.type.count // 2
        while half:
            lanes = ir.VectorType(_INDEX, half)
            lower, upper = (
                self.builder.shuffle_vector(
                    value, value, ir.Constant(lanes, list(range(first, first + half)))
                )
                for first in (0, half)
            )
            value, half = self.builder.fadd(lower, upper), half // 2
        return self.builder.extract_element(value, _INDEX(0))


def _emit(signature: Any, build: Callable[[_Code, Any, Any], Any]) -> Any:
    """Return what an intrinsic is to return; `build` writes its code, and returns its value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = build(_Code(context, builder, signature, args), builder, args)
        return context.get_dummy_value() if value is None else value

    return signature, generate


def _tile(rows: int, *, negative: bool = False, fresh: bool = False) -> Any:
    """Return an intrinsic that adds products to `rows` vectors, which stay in registers meanwhile.

    C_r += Σ_k m_kr z_k for k < n, or −=, or = if `fresh`: C_r is at ``c, at + r c_step``, the
    number m_kr at ``m, m_at + k m_step + r`` and the vector z_k at ``z, z_at + k z_step``.
    """

    @intrinsic
    def tile(
        typing: Any,
        c: Any,
        c_at: Any,
        c_step: Any,
        m: Any,
        m_at: Any,
        m_step: Any,
        z: Any,
        z_at: Any,
        z_step: Any,
        n: Any,
    ) -> Any:
        index = types.int64
        signature = types.void(c, index, index, m, index, index, z, index, index, index)

        def build(code: _Code, builder: Any, args: Any) -> Any:
            data = [code.data(place) for place in (0, 3, 6)]
            c_at, c_step, m_at, m_step, z_at, z_step = (args[k] for k in (1, 2, 4, 5, 7, 8))
            sums = [cgutils.alloca_once(builder, code.vector) for _ in range(rows)]
            places = [builder.add(c_at, builder.mul(c_step, c_at.type(row))) for row in range(rows)]
            for place, total in zip(places, sums, strict=True):
                zeros = ir.Constant(code.vector, [0.0] * code.vector.count)
                builder.store(zeros if fresh else code.load(data[0], place), total)
            with cgutils.for_range(builder, args[9]) as loop:
                numbers = builder.add(m_at, builder.mul(loop.index, m_step))
                vector = code.load(data[2], builder.add(z_at, builder.mul(loop.index, z_step)))
                for row, total in enumerate(sums):
                    place = builder.gep(data[1], [builder.add(numbers, numbers.type(row))])
                    number = builder.load(place)
                    factor = code.splat(builder.fneg(number) if negative else number)
                    builder.store(code.fma(factor, vector, builder.load(total)), total)
            for place, total in zip(places, sums, strict=True):
                code.store(builder.load(total), data[0], place)

        return _emit(signature, build)

    return tile


add_one, add_two, add_four = _tile(1), _tile(2), _tile(4)
subtract_one, subtract_four = _tile(1, negative=True), _tile(4, negative=True)
products_of_six = _tile(6, fresh=True)


@intrinsic
def add_rows(
    typing: Any,
    c: Any,
    c_at: Any,
    w: Any,
    w_at: Any,
    w_step: Any,
    z: Any,
    z_at: Any,
    rows: Any,
    first: Any,
    stop: Any,
) -> Any:
    """Add rows of four vectors, times a number each, to four vectors.

    C += Σ_k w_k z_k over first ≤ k < stop, with C at ``c, c_at``, the number w_k at
    ``w, w_at + k w_step``, and the row z_k at ``z, z_at``, as many rows after it as rows[k] says.
    """
    index = types.int64
    signature = types.void(c, index, w, index, index, z, index, rows, index, index)

    def build(code: _Code, builder: Any, args: Any) -> Any:
        data, lanes = [code.data(place) for place in (0, 2, 5, 7)], code.vector.count
        _, c_at, _, w_at, w_step, _, z_at, _, first, stop = args
        vectors = [c_at.type(lane * lanes) for lane in range(4)]
        sums = [cgutils.alloca_once(builder, code.vector) for _ in vectors]
        for lane, total in zip(vectors, sums, strict=True):
            builder.store(code.load(data[0], builder.add(c_at, lane)), total)
        with cgutils.for_range_slice(builder, first, stop, first.type(1)) as (k, _):
            row = builder.sext(builder.load(builder.gep(data[3], [k])), k.type)
            place = builder.add(z_at, builder.mul(row, k.type(4 * lanes)))
            number = builder.add(w_at, builder.mul(k, w_step))
            factor = code.splat(builder.load(builder.gep(data[1], [number])))
            for lane, total in zip(vectors, sums, strict=True):
                vector = code.load(data[2], builder.add(place, lane))
                builder.store(code.fma(factor, vector, builder.load(total)), total)
        for lane, total in zip(vectors, sums, strict=True):
            code.store(builder.load(total), data[0], builder.add(c_at, lane))

    return _emit(signature, build)


@intrinsic
def gather(typing: Any, to: Any, at: Any, of: Any, of_at: Any, count: Any, factor: Any) -> Any:
    """Copy at most a vector's numbers, `count` of them, times a factor, followed by zeros."""

    def build(code: _Code, builder: Any, args: Any) -> Any:
        to, source, factor = code.data(0), code.data(2), code.splat(args[5])
        whole = builder.icmp_signed(">=", args[4], args[4].type(code.vector.count))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                code.store(builder.fmul(code.load(source, args[3]), factor), to, args[1])
            with otherwise:
                vector = code.load_first(source, args[3], args[4])
                code.store(builder.fmul(vector, factor), to, args[1])

    return _emit(types.void(to, types.int64, of, types.int64, types.int64, of.dtype), build)


@intrinsic
def scale(typing: Any, a: Any, at: Any, factor: Any) -> Any:
    """Multiply a vector by a number."""

    def build(code: _Code, builder: Any, args: Any) -> Any:
        data = code.data(0)
        code.store(builder.fmul(code.load(data, args[1]), code.splat(args[2])), data, args[1])

    return _emit(types.void(a, types.int64, a.dtype), build)


@intrinsic
def keep_greater(typing: Any, a: Any, at: Any, b: Any, b_at: Any) -> Any:
    """Replace the numbers of a vector that are less than those of another one by these."""

    def build(code: _Code, builder: Any, args: Any) -> Any:
        data = [code.data(place) for place in (0, 2)]
        one, other = code.load(data[0], args[1]), code.load(data[1], args[3])
        greater = builder.select(builder.fcmp_ordered(">", other, one), other, one)
        code.store(greater, data[0], args[1])

    return _emit(types.void(a, types.int64, b, types.int64), build)


@intrinsic
def reaches(typing: Any, a: Any, at: Any, bar: Any) -> Any:
    """Tell whether any number of a vector is at least `bar`, a float64."""

    def build(code: _Code, builder: Any, args: Any) -> Any:
        bar = code.splat(builder.fptrunc(args[2], code.vector.element))
        vector = code.load(code.data(0), args[1])
        bits = ir.IntType(code.vector.count)
        found = builder.bitcast(builder.fcmp_ordered(">=", vector, bar), bits)
        return builder.icmp_unsigned("!=", found, bits(0))

    return _emit(types.boolean(a, types.int64, types.float64), build)


def _dot(*, double: bool) -> Any:
    """Return an intrinsic that adds the products of two arrays, lane by lane and then the lanes."""

    @intrinsic
    def dot(typing: Any, a: Any, a_at: Any, count: Any, b: Any, b_at: Any) -> Any:
        result = types.float64 if double else a.dtype

        def build(code: _Code, builder: Any, args: Any) -> Any:
            lanes, wide = code.vector.count, code.vector
            if double:
                wide = ir.VectorType(ir.DoubleType(), lanes)
            both = code.data(0), code.data(3)
            _, a_at, count, _, b_at = args
            total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * lanes))

            def add(a: Any, b: Any) -> None:
                if a.type != wide:
                    a, b = builder.fpext(a, wide), builder.fpext(b, wide)
                builder.store(code.fma(a, b, builder.load(total)), total)

            whole = builder.sdiv(count, count.type(lanes))
            with cgutils.for_range(builder, whole) as loop:
                place = builder.mul(loop.index, count.type(lanes))
                places = builder.add(a_at, place), builder.add(b_at, place)
                add(*(code.load(of, at) for of, at in zip(both, places, strict=True)))
            place = builder.mul(whole, count.type(lanes))
            left = builder.sub(count, place)
            with builder.if_then(builder.icmp_signed(">", left, left.type(0))):
                places = builder.add(a_at, place), builder.add(b_at, place)
                add(*(code.load_first(of, at, left) for of, at in zip(both, places, strict=True)))
            return code.sum(builder.load(total))

        return _emit(result(a, types.int64, types.int64, b, types.int64), build)

    return dot


dot = _dot(double=False)
"""Return Σ_k a_k b_k for k < count, in the type of a."""

dot_in_double = _dot(double=True)
"""Return Σ_k a_k b_k for k < count, in float64."""


@intrinsic
def prefetch(typing: Any, a: Any, at: Any, count: Any) -> Any:
    """Ask for some numbers, at most 4 cache lines of them, before they are needed."""

    def build(code: _Code, builder: Any, args: Any) -> Any:
        data, pointer = code.data(0), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, *[_INDEX] * 3])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        step = BYTES // code.size
        for line in range(4):
            first = args[1].type(line * step)
            with builder.if_then(builder.icmp_signed("<", first, args[2])):
                address = builder.bitcast(builder.gep(data, [builder.add(args[1], first)]), pointer)
                builder.call(fetch, [address, _INDEX(0), _INDEX(3), _INDEX(1)])

    return _emit(types.void(a, types.int64, types.int64), build)
