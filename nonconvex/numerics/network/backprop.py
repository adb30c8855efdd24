"""The loss and its gradient, by backpropagation (Rumelhart, Hinton and Williams, 1986).

From δ⁽ᴸ⁾ = w ∂ℓ/∂z⁽ᴸ⁾, one row for each example, back through the layers that `forward` kept:

    ∂/∂W_l = h⁽ˡ⁻¹⁾ᵀ δ⁽ˡ⁾,   ∂/∂b_l = Σ_rows δ⁽ˡ⁾,   δ⁽ˡ⁻¹⁾ = (δ⁽ˡ⁾ W_lᵀ) σ'_{l−1}(z⁽ˡ⁻¹⁾)

`sums` adds over examples, `merge` over pieces of data, and `network_objective` returns f and its
gradient:

    f(θ) = Σ w ℓ / Σ w + (λ/2) Σ_l ‖W_l‖²

**Same bits, whatever the cores.**  A minibatch is cut into *lanes*: up to 4 equal runs of rows, by
its size.  Each is computed by one thread, in pieces of at most 1024 rows, and the sums are added in
order.

**Order of rows.**  Data are held in P pieces.  Epoch e visits the pieces in an order drawn for
(seed, e), and the rows of piece q in an order drawn for (seed, e, q); minibatches are cut from that
sequence.  So the rows of a step depend on the pieces alone, and any holder of a piece can draw the
order of its rows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Doubles, Floats, Ints, Longs
from nonconvex.numerics.deterministic import OrderedMap, Stream, one_thread_per_product
from nonconvex.numerics.network.model import ACTIVATIONS, Network, NetworkError, forward

LANES = 4
ROWS_OF_LANE = 64  # at least: below, adding the gradients of lanes takes too long
ROWS_AT_A_TIME = 1024  # at most: memory must not grow with the data
_PIECES, _ROWS = 1, 2  # uses of random numbers, beside that of `model`


class Examples(NamedTuple):
    """Rows of training data."""

    x: Floats  # (m, d_0): In the dtype of θ; any other is converted at every use
    # float of shape (m, k) for the squared error; integers of shape (m,), the classes, for the
    # cross-entropies
    y: NDArray[Any]
    weight: Doubles | None = None  # (m,): w ≥ 0; None means that every weight is 1


class Sums(NamedTuple):
    """Sums of loss and gradient over examples; `merge` adds."""

    loss: Doubles  # (R,): Σ w ℓ, without the penalty
    gradient: Floats  # (R, p): Its gradient, in the dtype of θ
    weight: float  # Σ w


class EvaluationSums(NamedTuple):
    """Sums of loss and accuracy over examples; `merge` adds."""

    loss: Doubles  # (R,): Σ w ℓ
    # (R,): Σ w over the examples whose class is predicted; 0 for the squared error
    correct: Doubles
    weight: float  # Σ w

    def mean_loss(self) -> Doubles:
        """Σ w ℓ / Σ w, of shape (R,)."""
        return self.loss / self.weight

    def metric(self, network: Network) -> Doubles:
        """Accuracy for classes; for the squared error its root mean, √(Σ w ‖ŷ − y‖² / Σ w)."""
        if network.classes is None:
            return np.sqrt(self.mean_loss())
        return self.correct / self.weight


S = TypeVar("S", Sums, EvaluationSums)


def merge(a: S, b: S) -> S:
    """Add the sums over two sets of examples."""
    return type(a)(*map(operator.add, a, b))


def check(network: Network, examples: Examples) -> None:
    """Refuse examples that do not fit the network."""
    x, y, weight = examples
    network.check_features(x)
    wanted = (len(x),) if network.classes else (len(x), network.layers[-1])
    if y.shape != wanted:
        raise NetworkError(
            f"y must have shape {wanted} for {len(x)} rows, {network.loss} and "
            f"layers={network.layers}, got {y.shape}"
        )
    if weight is not None and weight.shape != (len(x),):
        raise NetworkError(f"weight must have shape {(len(x),)}, as x has rows, got {weight.shape}")
    if network.classes is None:
        return
    if y.dtype.kind not in "iu":
        raise NetworkError(f"classes must be integers from 0 on, got {y.dtype}; index them")
    outside = y[(y < 0) | (y >= network.classes)]
    if len(outside):
        raise NetworkError(
            f"classes must be 0 … {network.classes - 1}, got {outside[0]}; index them, or widen "
            f"the output layer (now {network.layers[-1]})"
        )


def sums(
    network: Network,
    theta: Floats,
    examples: Examples,
    rows: Ints | None = None,
    *,
    ordered_map: OrderedMap = map,
) -> Sums:
    """Sum the loss and its gradient over examples: one forward and one backward pass.

    Parameters
    ----------
    theta : float array of shape (R, p)
        R restarts; each gets the bits that it would get alone.
    examples : Examples
        Valid by `check`.
    rows : int array, optional
        Their order, by default that of `examples`; the same bits as taking them beforehand, faster.
    ordered_map : callable
        `map` computes lane after lane; the ``map`` of a ThreadPoolExecutor several at a time.

    Returns
    -------
    Sums
        A loss that overflows is infinite or NaN, without a warning.

    Raises
    ------
    NetworkError
        If shapes disagree, or a hidden "step" is to be trained through without being asked to.

    Examples
    --------
    ŷ = 3 x at x = 2 with y = 5: ℓ = 1, ∂ℓ/∂w = 2 (ŷ − y) x = 4.

    >>> network = Network((1, 1), (), "squared-error", bias=False)
    >>> sums(network, np.array([[3.0]]), Examples(np.array([[2.0]]), np.array([[5.0]])))
    Sums(loss=array([1.]), gradient=array([[4.]]), weight=1.0)
    """
    if "step" in network.activations and network.step_gradient is None:
        raise NetworkError(
            "the derivative of the activation step is 0, so nothing is learned through it; choose "
            'another activation, or set stepGradient="straight-through"'
        )
    return _total(lambda part: _sums(network, theta, part), examples, rows, ordered_map)


def evaluate(
    network: Network,
    theta: Floats,
    examples: Examples,
    rows: Ints | None = None,
    *,
    ordered_map: OrderedMap = map,
) -> EvaluationSums:
    """Sum the loss and the correct classes over examples: a forward pass."""
    return _total(lambda part: _evaluate(network, theta, part), examples, rows, ordered_map)


def network_objective(network: Network, theta: Floats, sums: Sums) -> tuple[Doubles, Floats]:
    """f(θ) = Σ w ℓ / Σ w + (λ/2) Σ_l ‖W_l‖² and its gradient; the only place of the penalty.

    For θ of shape (R, p), f is of shape (R,) in float64, and its gradient is as θ.
    """
    weight = sums.weight or 1.0
    value, gradient = sums.loss / weight, sums.gradient / weight
    if network.reg:
        weights = theta * network.is_weight
        value += network.reg / 2 * np.square(weights, dtype=np.float64).sum(axis=-1)
        gradient += network.reg * weights
    return value, gradient


def _total(
    function: Callable[[Examples], S],
    examples: Examples,
    rows: Ints | None,
    ordered_map: OrderedMap,
) -> S:
    """Sum a function of examples over all lanes, in order."""
    count = len(examples.x) if rows is None else len(rows)

    def lane(place: slice) -> S:
        starts = range(place.start, place.stop, ROWS_AT_A_TIME) or [0]  # no rows: sums of 0
        parts = [slice(start, min(start + ROWS_AT_A_TIME, place.stop)) for start in starts]
        with np.errstate(all="ignore"):  # the loss shows divergence
            return reduce(
                merge, (function(_taken(examples, p if rows is None else rows[p])) for p in parts)
            )

    lanes = max(1, min(LANES, count // ROWS_OF_LANE))
    cuts = [count * number // lanes for number in range(lanes + 1)]
    places = [slice(*cut) for cut in pairwise(cuts)]
    with one_thread_per_product():
        return reduce(merge, (map if lanes == 1 else ordered_map)(lane, places))


def _taken(examples: Examples, rows: slice | Ints) -> Examples:
    x, y, weight = examples
    if isinstance(rows, slice):
        return Examples(x[rows], y[rows], None if weight is None else weight[rows])
    # np.take is several times faster than an index
    return Examples(
        x.take(rows, axis=0), y.take(rows, axis=0), None if weight is None else weight.take(rows)
    )


def _sums(network: Network, theta: Floats, examples: Examples) -> Sums:
    x, y, weight = examples
    *h, z = forward(network, theta, x)
    value, delta = network.output.evaluate(z, y)  # (R, m), (R, m, d_L)
    if weight is not None:
        value *= weight
        delta *= weight[:, None].astype(delta.dtype)
    gradient = np.empty_like(theta)
    parameters, slopes = network.views(theta), network.views(gradient)
    for number in reversed(range(network.depth)):
        np.matmul(h[number].swapaxes(-2, -1), delta, out=slopes[number].weights)
        if (bias := slopes[number].bias) is not None:
            delta.sum(axis=-2, out=bias)
        if number > 0:
            delta = delta @ parameters[number].weights.swapaxes(-2, -1)  # (R, m, d_{l−1})
            activation = ACTIVATIONS[network.activations[number - 1]]
            delta = activation.backward(delta, h[number])
    return Sums(value.sum(axis=-1), gradient, _weight(examples))


def _evaluate(network: Network, theta: Floats, examples: Examples) -> EvaluationSums:
    *_, z = forward(network, theta, examples.x)
    value, _ = network.output.evaluate(z, examples.y)  # (R, m)
    right = np.zeros(value.shape)
    if network.classes is not None:
        right += network.predicted(z) == examples.y
    if examples.weight is not None:
        value *= examples.weight
        right *= examples.weight
    return EvaluationSums(value.sum(axis=-1), right.sum(axis=-1), _weight(examples))


def _weight(examples: Examples) -> float:
    return float(len(examples.x) if examples.weight is None else examples.weight.sum())


class Slice(NamedTuple):
    """A run of the shuffled rows of one piece."""

    piece: int
    # the rows are ``row_order(size, seed, epoch, piece)[start:stop]``
    start: int
    stop: int


def epoch_order(
    sizes: Sequence[int], batch_size: int, seed: int, epoch: int
) -> Iterator[list[Slice]]:
    """Yield the minibatches of an epoch, each a list of slices to concatenate.

    Every row occurs exactly once; the last minibatch may be short.
    """
    batch: list[Slice] = []
    room = batch_size
    for piece in piece_order(len(sizes), seed, epoch):
        start = 0
        while start < sizes[piece]:
            stop = min(start + room, sizes[piece])
            batch.append(Slice(piece, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch


def epoch_rows(
    sizes: Sequence[int], batch_size: int, seed: int, epoch: int
) -> Iterator[list[tuple[int, Longs]]]:
    """Yield the minibatches of `epoch_order` as pairs of a piece and positions of rows in it."""
    held, rows = -1, np.empty(0, np.int64)
    for batch in epoch_order(sizes, batch_size, seed, epoch):
        positions = []
        for piece, start, stop in batch:
            if piece != held:  # an epoch visits each piece once
                held, rows = piece, row_order(sizes[piece], seed, epoch, piece)
            positions.append((piece, rows[start:stop]))
        yield positions


def piece_order(pieces: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits the pieces."""
    return [int(piece) for piece in Stream.generator(seed, _PIECES, epoch).permutation(pieces)]


def row_order(size: int, seed: int, epoch: int, piece: int) -> Longs:
    """Return the order in which an epoch visits the rows of a piece, of shape (size,)."""
    return Stream.generator(seed, _ROWS, epoch, piece).permutation(size)


class LocalGradients:
    """Gradients of minibatches of examples in memory; a context manager that ends its threads.

    The examples are concatenated pieces, of so many rows as `sizes` has, and are cut into batches
    of `batch_size` ≥ 1.  `threads` lanes are computed at a time; the bits are the same.

    Examples that do not fit the network or the sizes, or a batch size below 1, raise NetworkError.
    """

    def __init__(
        self,
        network: Network,
        examples: Examples,
        sizes: Sequence[int],
        batch_size: int,
        seed: int,
        threads: int = 1,
    ) -> None:
        check(network, examples)
        if sum(sizes) != len(examples.x):
            raise NetworkError(
                f"sizes must add up to the {len(examples.x)} rows of x, got {sum(sizes)}"
            )
        if batch_size < 1:
            raise NetworkError(f"batch_size must be ≥ 1, got {batch_size}")
        self._network, self._examples = network, examples
        self._sizes, self._batch_size, self._seed = list(sizes), batch_size, seed
        self._starts = np.cumsum([0, *sizes])
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> LocalGradients:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def epoch(self, number: int) -> Iterator[Callable[[Floats], Sums]]:
        """Yield for each minibatch of an epoch a function from θ of shape (R, p) to its sums."""
        ordered_map: Any = map if self._pool is None else self._pool.map
        for batch in epoch_rows(self._sizes, self._batch_size, self._seed, number):
            rows = np.concatenate([self._starts[piece] + rows for piece, rows in batch])
            yield partial(self._sums, rows, ordered_map)

    def _sums(self, rows: Longs, ordered_map: OrderedMap, theta: Floats) -> Sums:
        return sums(self._network, theta, self._examples, rows, ordered_map=ordered_map)
