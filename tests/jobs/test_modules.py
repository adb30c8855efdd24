"""A job imports what its model needs, and no other model."""

import subprocess
import sys

import pytest

from tests.jobs.cluster import ROOT


@pytest.mark.parametrize(
    ("job", "foreign"),
    [
        ("train_factorization", ("network", "neural_network")),
        ("evaluate", ("network", "neural_network")),
        ("recommend", ("network", "neural_network")),
        ("train_network", ("factorization", "recommendation")),
        ("predict", ("network", "neural_network", "factorization", "recommendation")),
    ],
)
def test_a_job_imports_no_other_model(job, foreign):
    check = f"import sys, jobs.{job}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = [name for name in done.stdout.split() if name.startswith("nonconvex.")]
    assert "nonconvex.pipeline.runner" in loaded
    # The tables of models, which all share, know the arrays of a factorization.
    above = [name for name in loaded if not name.startswith("nonconvex.numerics.")]
    found = [name for name in above if any(part.startswith(foreign) for part in name.split("."))]
    assert not found
