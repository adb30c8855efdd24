"""The mathematics, in numpy alone: pure functions of arrays that run without Java.

Docstrings use the symbols of this table, code uses the names.  A row holds the bias and the factors
of a user or an item: x_u = (β_u, γ_u), and z_i = (1, γ_i) in the equations of users.

==========  =====================  =============  ================================================
symbol      code                   shape          meaning
==========  =====================  =============  ================================================
R_ui        ``ratings``            (n,)           observed ratings
w           ``weights``            (n,)           their weights
α           ``alpha``              ()             global bias
x_u, x_i    ``users``, ``items``   (n_u, 1 + K)   rows (β, γ) of users and of items; K = ``rank``
λ           ``reg``                ()             regularization; ρ ``bias_ratio``, ν ``exponent``
d           ``degrees``            (n_u,)         numbers, or sums of weights, of ratings of rows
κ           ``confidence``         ()             of implicit feedback
τ, ω        ``tau``,               (), (n_u,)     precision of a rating, and of those of a user
            ``user_precision``
μ, ξ, Λ     ``RowDistribution``    (1 + K,), …    mean, bias on activity, precision of rows
θ           ``theta``              (p,)           all weights of a network
==========  =====================  =============  ================================================
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Arrays by what they hold: float32 or float64, float64, integers of any size, int64, and booleans.
Floats: TypeAlias = NDArray[np.floating]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.integer]
Longs: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
