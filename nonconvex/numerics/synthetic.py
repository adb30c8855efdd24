"""Planted data: ratings and examples of a known law, of any size, made in parts.

What a user has rated and what an example looks like depend on the law and on their number, so any
part can be made anywhere and is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Doubles, Ints, Longs
from nonconvex.numerics.deterministic import Stream, normal_rows, uniform_rows

_MEAN, _BIAS, _NOISE = 3.5, 0.4, 0.6
_USER_SCALE, _ITEM_SCALE, _RANK = 0.35, 0.6, 8
# What the streams of random numbers are for.
_PICK, _USERS, _ITEMS, _ERRORS, _CENTRES, _MEMBERS, _SPREAD = range(7)
_DISTANCE = 7.0


@dataclass(frozen=True)
class PowerLaw:
    """Shares that fall with the place: p(x) ∝ (x + s)^(−a) for 0 ≤ x < n.

    Examples
    --------
    >>> law = PowerLaw(100, 20.0, 0.9)
    >>> bool(np.isclose(law.place(law.share(np.array(7.0))), 7))
    True
    """

    size: int  # n
    shift: float  # s > 0, which flattens the head
    exponent: float  # a in (0, 1)

    def share(self, place: Doubles) -> Doubles:
        """F(x) = ((x + s)^(1−a) − s^(1−a)) / ((n + s)^(1−a) − s^(1−a)), of all places below x."""
        low, high = self._ends
        share: Doubles = (place + self.shift) ** (1 - self.exponent)
        return (share - low) / (high - low)

    def place(self, share: Doubles) -> Doubles:
        """Return x such that F(x) is `share`."""
        low, high = self._ends
        root: Doubles = (low + share * (high - low)) ** (1 / (1 - self.exponent))
        return root - self.shift

    @property
    def _ends(self) -> tuple[float, float]:
        power = 1 - self.exponent
        return self.shift**power, (self.size + self.shift) ** power


@dataclass(frozen=True)
class PlantedRatings:
    """R_ui = 3.5 + β_u + β_i + γ_u·γ_i + ε, with power laws of activity and popularity.

    β ~ N(0, 0.4²), γ_u ~ N(0, 0.35²) and γ_i ~ N(0, 0.6²) in 8 dimensions, ε ~ N(0, 0.6²), so no
    prediction has an RMSE below 0.6.  Users and items are numbered from 0; no pair occurs twice.

    Raises
    ------
    ValueError
        If the most active user would have more ratings than there are items.
    """

    ratings: int
    users: int
    items: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse sizes that would repeat a pair."""
        most = self.most_active
        if most > self.items:
            raise ValueError(
                f"the most active of {self.users} users has {most} of the {self.ratings} ratings, "
                f"and there are {self.items} items; plan fewer ratings, or more users or items"
            )

    @classmethod
    def of_size(
        cls, ratings: int, users: int | None = None, items: int | None = None, seed: int = 0
    ) -> PlantedRatings:
        """Return a law of n ratings, by default with 7 users per 1,000 ratings and 3.5 √n items.

        There are at least twice as many items as the most active user rates.
        """
        users = users or max(20, ratings * 7 // 1000)
        if items is None:
            most = cls(ratings, users, ratings, seed).most_active
            items = max(round(3.5 * ratings**0.5), 2 * most)
        return cls(ratings, users, items, seed)

    @property
    def most_active(self) -> int:
        """Number of ratings of the most active user."""
        return int(self._degrees(np.zeros(1, np.int64))[0])

    def of_users(self, users: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """Return the users, items and ratings, each (r,), of all ratings of these users."""
        degrees = self._degrees(_shuffled(users.astype(np.int64), self.users))
        owner = np.repeat(np.arange(len(users)), degrees)  # (r,)
        user = users[owner].astype(np.int64)
        item = _shuffled(self._places(user, owner, degrees), self.items)
        x = self._rows(_USERS, users, _USER_SCALE)[owner]  # (r, 1 + rank)
        y = self._rows(_ITEMS, np.arange(self.items), _ITEM_SCALE)[item]
        error = normal_rows(self._stream(_ERRORS), user * self.items + item, 1)[:, 0]
        product = np.einsum("rk,rk->r", x[:, 1:], y[:, 1:])
        rating = _MEAN + x[:, 0] + y[:, 0] + product + _NOISE * error
        return user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32)

    def _degrees(self, places: Longs) -> Longs:
        """Return the numbers of ratings of users, by their place in the order of activity."""
        law = PowerLaw(self.users, self.users / 1000 + 10, 0.6)
        ends = np.stack([places, places + 1]).astype(np.float64)
        first, last = np.rint(self.ratings * law.share(ends)).astype(np.int64)
        degrees: Longs = last - first
        return degrees

    def _places(self, user: Longs, owner: Longs, degrees: Longs) -> Longs:
        """Return the places, by popularity, of the items of each rating: no two of a user equal.

        The k-th of the d items of a user is drawn from the k-th of d equal shares of popularity,
        and moved on where it is no further than the one before.
        """
        k = np.arange(len(owner)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
        uniform = uniform_rows(self._stream(_PICK), user * self.items + k, 1)[:, 0]
        law = PowerLaw(self.items, 20.0, 0.9)
        drawn = np.floor(law.place((k + uniform) / degrees[owner])).astype(np.int64)
        # x_k − k must not fall: a running maximum, in which each user begins above the one before.
        apart = owner * (2 * self.items)
        place = np.maximum.accumulate(drawn - k + apart) - apart + k
        last = self.items - degrees[owner] + k  # that leaves room for the rest
        places: Longs = np.minimum(place, last)
        return places

    def _rows(self, use: int, ids: Ints, scale: float) -> Doubles:
        """Return β and γ of each id."""
        deviations = np.array([_BIAS] + _RANK * [scale])
        rows: Doubles = normal_rows(self._stream(use), ids, 1 + _RANK) * deviations
        return rows

    def _stream(self, use: int) -> Stream:
        return Stream.of(self.seed, use)


@dataclass(frozen=True)
class PlantedExamples:
    """Examples of classes of several clouds each: x = μ_g + ε, ε ~ N(0, I), y = g mod classes.

    The centres μ_g lie about 7 apart in any number of dimensions, so the clouds overlap a little,
    and no hyperplane parts one class from the others.
    """

    features: int
    classes: int
    seed: int
    clouds: int = 3  # number of clouds of a class

    def examples(self, rows: Ints) -> tuple[NDArray[np.float32], Ints]:
        """Return the features (r, features) and classes (r,) of the rows of these numbers (r,)."""
        groups = self.classes * self.clouds
        uniform = uniform_rows(Stream.of(self.seed, _MEMBERS), rows, 1)[:, 0]
        group = (uniform * groups).astype(np.int32)
        centres = normal_rows(Stream.of(self.seed, _CENTRES), np.arange(groups), self.features)
        centres *= _DISTANCE / np.sqrt(2 * self.features)
        spread = normal_rows(Stream.of(self.seed, _SPREAD), rows, self.features)
        return (centres[group] + spread).astype(np.float32), group % np.int32(self.classes)


def _shuffled(places: Longs, size: int) -> Longs:
    """Map 0 … size − 1 to itself, one to one, so that neighbours part."""
    step = max(1, int(size * 0.618))
    while gcd(step, size) > 1:
        step += 1
    return places * step % size
