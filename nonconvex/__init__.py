"""Latent factor models and feed-forward neural networks on Spark.

The package is built in rings, and imports point one way:

``nonconvex.numerics``
    The mathematics: pure functions of numpy arrays, readable and testable without Java.
``nonconvex.distributed``
    The thin Spark layer: plans, Arrow edges, broadcasts; no formulas.
``nonconvex.recommendation``
    The estimators, which follow ``pyspark.ml`` to the letter.

This module imports nothing: Python runs it before any submodule, also inside every executor,
so a convenience import here would pull Spark into the numerics and into each worker.
"""

__version__ = "0.1.0"
