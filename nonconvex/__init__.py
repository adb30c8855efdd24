"""Latent factor models and feed-forward neural networks on Spark.

``recommendation``, ``neural_network`` and ``session`` are public; the other rings are ``numerics``,
``distributed``, ``estimators``, ``pipeline``, ``report`` and ``benchmark``: see
docs/architecture.md.

This module imports nothing: Python runs it before any submodule, also inside every executor,
so a convenience import here would pull Spark into the numerics and into each worker.
"""


def __getattr__(name: str) -> str:
    """Look the version up in what is installed, where the newest tag of the source put it."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nonconvex")
    except PackageNotFoundError:  # in a clone on PYTHONPATH
        return "0+unknown"
