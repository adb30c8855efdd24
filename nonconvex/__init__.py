"""Latent factor models and feed-forward neural networks on Spark.

``recommendation``, ``neural_network`` and ``session`` are public; the other rings are ``numerics``,
``distributed``, ``estimators``, ``pipeline``, ``report`` and ``benchmark``: see
docs/architecture.md.

This module imports nothing: Python runs it before any submodule, also inside every executor,
so a convenience import here would pull Spark into the numerics and into each worker.
"""

__version__ = "0.1.0"
