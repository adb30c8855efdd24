"""Latent factor models: the objective, its solvers, and posteriors."""
