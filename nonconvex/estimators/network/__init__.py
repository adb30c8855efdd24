"""Parts of `nonconvex.neural_network`."""
