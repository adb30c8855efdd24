"""The same mathematics in loops that numba compiles: faster twins of functions of `numerics`."""
