"""Imports point one way, and the numerics stand on numpy alone.

A new module needs a line in `IMPORTS`; a new third-party package needs a reason in `PACKAGES`.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# module: the modules of nonconvex that it may import.
IMPORTS = {
    "nonconvex": "",
    # numerics: the mathematics
    "nonconvex.numerics": "",
    "nonconvex.numerics.padding": "",
    "nonconvex.numerics.blocks": "numerics.padding",
    "nonconvex.numerics.routes": "numerics.blocks",
    "nonconvex.numerics.totals": "",
    "nonconvex.numerics.conjugate_gradients": "",
    "nonconvex.numerics.quadratic": "",
    "nonconvex.numerics.convergence": "",
    "nonconvex.numerics.choices": "",
    "nonconvex.numerics.schedules": "numerics.choices",
    "nonconvex.numerics.descent": "numerics.schedules",
    "nonconvex.numerics.optimizers": "numerics.choices numerics.descent numerics.schedules",
    "nonconvex.numerics.activations": "",
    "nonconvex.numerics.losses": "numerics.activations",
    "nonconvex.numerics.threads": "",
    "nonconvex.numerics.network": "numerics.activations numerics.losses",
    "nonconvex.numerics.backpropagation": (
        "numerics.activations numerics.network numerics.threads"
    ),
    "nonconvex.numerics.minibatches": "",
    "nonconvex.numerics.moments": "",
    "nonconvex.numerics.local_gradients": (
        "numerics.backpropagation numerics.minibatches numerics.network"
    ),
    "nonconvex.numerics.epochs": "",
    "nonconvex.numerics.training": (
        "numerics.backpropagation numerics.convergence numerics.descent numerics.epochs "
        "numerics.network"
    ),
    "nonconvex.numerics.factorization": "numerics.blocks",
    "nonconvex.numerics.ranking": "numerics.factorization",
    "nonconvex.numerics.summation": "",
    "nonconvex.numerics.errors": "numerics.summation",
    "nonconvex.numerics.network_errors": "numerics.errors numerics.summation",
    "nonconvex.numerics.relevance": "numerics.ranking",
    "nonconvex.numerics.implicit": "numerics.blocks",
    "nonconvex.numerics.principal_axes": "",
    "nonconvex.numerics.contributions": "numerics.blocks numerics.implicit",
    "nonconvex.numerics.least_squares": (
        "numerics.blocks numerics.conjugate_gradients numerics.designs "
        "numerics.factorization numerics.implicit numerics.long_rows numerics.quadratic"
    ),
    "nonconvex.numerics.coordinate_descent": (
        "numerics.blocks numerics.factorization numerics.implicit numerics.least_squares"
    ),
    "nonconvex.numerics.designs": "numerics.blocks numerics.padding",
    "nonconvex.numerics.long_rows": (
        "numerics.blocks numerics.designs numerics.factorization numerics.quadratic"
    ),
    "nonconvex.numerics.gradient": (
        "numerics.blocks numerics.designs "
        "numerics.factorization numerics.implicit numerics.least_squares"
    ),
    "nonconvex.numerics.planted": "numerics.normals",
    "nonconvex.numerics.normals": "",
    "nonconvex.numerics.hyperpriors": "",
    "nonconvex.numerics.diagnostics": "",
    "nonconvex.numerics.gibbs": (
        "numerics.blocks numerics.designs numerics.hyperpriors numerics.least_squares "
        "numerics.normals numerics.quadratic"
    ),
    "nonconvex.numerics.chains": (
        "numerics.factorization numerics.gibbs numerics.hyperpriors numerics.least_squares "
        "numerics.normals"
    ),
    "nonconvex.numerics.averaging": "numerics.factorization",
    "nonconvex.numerics.random_rows": "numerics.factorization",
    "nonconvex.numerics.ridge_posterior": (
        "numerics.factorization numerics.hyperpriors numerics.threads"
    ),
    "nonconvex.numerics.posterior": (
        "numerics.blocks numerics.chains numerics.factorization numerics.gibbs "
        "numerics.hyperpriors numerics.normals"
    ),
    # distributed: the thin Spark layer
    "nonconvex.distributed": "",
    "nonconvex.distributed.writers": "",
    "nonconvex.distributed.filesystem": "distributed.writers",
    "nonconvex.distributed.checksums": "distributed.filesystem",
    "nonconvex.distributed.replacement": "distributed.filesystem",
    "nonconvex.distributed.ratings": "",
    "nonconvex.distributed.summation": "numerics.summation",
    "nonconvex.distributed.duplicates": "distributed.ratings",
    "nonconvex.distributed.indexing": "distributed.ratings",
    "nonconvex.distributed.intake": "distributed.ratings",
    "nonconvex.distributed.windows": "",
    "nonconvex.distributed.descriptions": "",
    "nonconvex.distributed.sources": "distributed.filesystem distributed.windows",
    "nonconvex.distributed.splits": "distributed.indexing distributed.ratings",
    "nonconvex.distributed.prepared": "distributed.filesystem",
    "nonconvex.distributed.publication": (
        "distributed.checksums distributed.filesystem distributed.replacement distributed.writers"
    ),
    "nonconvex.distributed.preparation": (
        "distributed.duplicates distributed.filesystem distributed.indexing distributed.intake "
        "distributed.prepared distributed.ratings distributed.sources distributed.splits "
        "distributed.summation"
    ),
    "nonconvex.distributed.serving": (
        "distributed.filesystem distributed.prepared distributed.sources"
    ),
    "nonconvex.distributed.chunks": (
        "distributed.arrow_streams distributed.ratings distributed.workers"
    ),
    "nonconvex.distributed.lookups": "numerics.blocks distributed.chunks distributed.indexing",
    "nonconvex.distributed.passes": "numerics.threads distributed.workers",
    "nonconvex.distributed.blocking": (
        "numerics.blocks distributed.chunks distributed.lookups distributed.passes "
        "distributed.workers"
    ),
    "nonconvex.distributed.half_steps": "numerics distributed.blocking distributed.passes",
    "nonconvex.distributed.alternating": "distributed.runs",
    "nonconvex.distributed.routing": (
        "numerics.blocks numerics.routes distributed.alignment distributed.blocking "
        "distributed.passes distributed.workers"
    ),
    "nonconvex.distributed.alignment": "",
    "nonconvex.distributed.arrow_streams": "",
    "nonconvex.distributed.distant_rows": (
        "numerics.factorization numerics.random_rows numerics.totals distributed.alignment "
        "distributed.workers"
    ),
    "nonconvex.distributed.distant_moments": (
        "numerics.ridge_posterior distributed.alignment distributed.distant_rows "
        "distributed.workers"
    ),
    "nonconvex.distributed.exchange": (
        "numerics.factorization numerics.routes numerics.totals distributed.alignment "
        "distributed.distant_rows distributed.half_steps distributed.passes "
        "distributed.problems distributed.routing distributed.runs distributed.workers"
    ),
    "nonconvex.distributed.row_sums": (
        "distributed.blocking distributed.passes distributed.ratings"
    ),
    "nonconvex.distributed.training": (
        "numerics.blocks distributed.blocking distributed.chunks distributed.indexing "
        "distributed.lookups "
        "distributed.passes distributed.row_sums "
        "distributed.prepared distributed.problems distributed.ratings"
    ),
    "nonconvex.distributed.columns": "",
    "nonconvex.distributed.vectors": "",
    "nonconvex.distributed.examples": "distributed.columns",
    "nonconvex.distributed.example_intake": "distributed.examples distributed.vectors",
    "nonconvex.distributed.workers": "",
    "nonconvex.distributed.pieces": (
        "numerics.backpropagation numerics.moments distributed.workers"
    ),
    "nonconvex.distributed.packing": (
        "distributed.example_intake distributed.examples distributed.pieces"
    ),
    "nonconvex.distributed.example_sets": (
        "numerics.moments distributed.example_intake distributed.examples distributed.packing "
        "distributed.pieces"
    ),
    "nonconvex.distributed.prepared_examples": (
        "numerics.moments distributed.example_sets distributed.examples distributed.filesystem "
        "distributed.packing distributed.pieces"
    ),
    "nonconvex.distributed.network_scoring": (
        "numerics distributed.examples distributed.vectors distributed.workers"
    ),
    "nonconvex.distributed.network_evaluation": (
        "numerics.network_errors numerics.summation distributed.example_intake "
        "distributed.examples distributed.network_scoring distributed.summation"
    ),
    "nonconvex.distributed.network_storage": (
        "numerics.moments numerics.network distributed.storage"
    ),
    "nonconvex.distributed.example_tables": (
        "distributed.columns distributed.examples distributed.ratings distributed.sources "
        "distributed.splits distributed.windows"
    ),
    "nonconvex.distributed.streaming": (
        "numerics.backpropagation numerics.minibatches numerics.network distributed.pieces"
    ),
    "nonconvex.distributed.executor_gradients": (
        "numerics.backpropagation numerics.minibatches numerics.network distributed.pieces"
    ),
    "nonconvex.distributed.placement": (
        "numerics distributed.executor_gradients distributed.pieces distributed.streaming"
    ),
    "nonconvex.distributed.network_training": (
        "numerics distributed.checkpoints distributed.descriptions distributed.example_sets "
        "distributed.executor_gradients distributed.interruption distributed.pieces "
        "distributed.placement distributed.progress"
    ),
    "nonconvex.distributed.storage": (
        "distributed.alignment distributed.arrow_streams distributed.distant_rows "
        "distributed.workers"
    ),
    "nonconvex.distributed.scoring": (
        "numerics.blocks numerics.factorization numerics.ranking distributed.workers"
    ),
    "nonconvex.distributed.evaluation": (
        "numerics.errors numerics.summation distributed.summation distributed.workers"
    ),
    "nonconvex.distributed.folding": (
        "numerics distributed.indexing distributed.ratings distributed.scoring "
        "distributed.training distributed.workers"
    ),
    "nonconvex.distributed.top_n": (
        "numerics.factorization numerics.ranking distributed.columns distributed.scoring "
        "distributed.workers"
    ),
    "nonconvex.distributed.retrieval": (
        "numerics.errors numerics.relevance distributed.scoring distributed.top_n"
    ),
    "nonconvex.distributed.problems": (
        "numerics.convergence numerics.factorization distributed.distant_rows distributed.passes"
    ),
    "nonconvex.distributed.runs": (
        "numerics distributed.descriptions distributed.distant_rows distributed.half_steps "
        "distributed.passes distributed.problems distributed.progress"
    ),
    "nonconvex.distributed.progress": "",
    "nonconvex.distributed.gradient_descent": (
        "numerics distributed.half_steps distributed.problems distributed.runs"
    ),
    "nonconvex.distributed.held_out": (
        "numerics distributed.blocking distributed.half_steps distributed.passes"
    ),
    "nonconvex.distributed.courses": (
        "numerics distributed.held_out distributed.problems distributed.progress"
    ),
    "nonconvex.distributed.sampling": (
        "numerics distributed.checkpoints distributed.courses distributed.distant_rows "
        "distributed.half_steps distributed.held_out distributed.interruption "
        "distributed.minimization distributed.problems distributed.runs"
    ),
    "nonconvex.distributed.uncertainty": "numerics.posterior numerics.ridge_posterior",
    "nonconvex.distributed.agreement": "",
    "nonconvex.distributed.checkpoints": (
        "distributed.checksums distributed.distant_rows distributed.filesystem distributed.storage"
    ),
    "nonconvex.distributed.interruption": "distributed.checkpoints",
    "nonconvex.distributed.minimization": (
        "numerics.convergence distributed.alternating distributed.checkpoints "
        "distributed.exchange distributed.gradient_descent distributed.half_steps "
        "distributed.interruption "
        "distributed.problems distributed.runs"
    ),
    # what a user meets
    "nonconvex.ranges": "",
    "nonconvex.starts": (
        "numerics.factorization numerics.random_rows distributed.distant_rows distributed.training"
    ),
    "nonconvex.fitting": "numerics distributed starts summary",
    "nonconvex.loops": "distributed factorization_params fitting",
    "nonconvex.config": "",
    "nonconvex.session": "",
    "nonconvex.worker_daemon": "",
    "nonconvex.logs": "",
    "nonconvex.tracking": (
        "distributed.filesystem distributed.publication models reports run_reports"
    ),
    "nonconvex.live": "distributed.progress",
    "nonconvex.job": "config distributed.descriptions live logs session",
    "nonconvex.window_sections": "config distributed.windows",
    "nonconvex.sections": "config distributed window_sections",
    "nonconvex.params": "numerics ranges",
    "nonconvex.turns": "",
    "nonconvex.factorization_params": "params ranges",
    "nonconvex.contradictions": "factorization_params params",
    "nonconvex.exchanges": ("distributed.passes distributed.training factorization_params params"),
    "nonconvex.explanations": "distributed factorization_params numerics params summary",
    "nonconvex.summary": (
        "distributed.courses distributed.problems numerics.diagnostics numerics.factorization"
    ),
    "nonconvex.recommender": "distributed.columns distributed.top_n factorization_params",
    "nonconvex.model_files": ("distributed.checksums distributed.filesystem distributed.storage"),
    "nonconvex.factorization_files": (
        "distributed.problems distributed.storage distributed.training model_files numerics summary"
    ),
    "nonconvex.serving_sections": "config",
    "nonconvex.factorization_model": (
        "distributed explanations factorization_files factorization_params numerics params ranges "
        "predictor recommender starts summary"
    ),
    "nonconvex.predictor": "distributed numerics.factorization summary uncertain",
    "nonconvex.rating_columns": "distributed.columns factorization_params",
    "nonconvex.recommendation": (
        "contradictions distributed exchanges factorization_model factorization_params fitting "
        "loops model_files numerics params rating_columns turns"
    ),
    "nonconvex.network_params": "numerics params ranges",
    "nonconvex.network_contradictions": "network_params params",
    "nonconvex.network_plans": "distributed network_params numerics.network params",
    "nonconvex.network_summary": "numerics.training",
    "nonconvex.network_fitting": (
        "distributed network_params network_plans network_summary numerics"
    ),
    "nonconvex.network_files": ("distributed model_files network_summary numerics.network"),
    "nonconvex.network_model": ("distributed network_files network_params network_summary params"),
    "nonconvex.neural_network": (
        "distributed model_files network_contradictions network_fitting network_model "
        "network_params params turns"
    ),
    "nonconvex.baselines": (
        "numerics.errors distributed.evaluation distributed.prepared distributed.scoring "
        "distributed.summation recommendation"
    ),
    "nonconvex.uncertain": (
        "distributed.columns distributed.uncertainty factorization_params numerics.factorization "
        "numerics.posterior numerics.ridge_posterior params"
    ),
    "nonconvex.reports": "numerics.errors distributed recommendation summary",
    "nonconvex.gates": "",
    "nonconvex.estimator_sections": "config gates",
    "nonconvex.lineage": "distributed",
    "nonconvex.releases": "config distributed estimator_sections gates lineage models",
    # the page of a run: pictures and words, of what others have computed
    "nonconvex.reporting": "",
    "nonconvex.reporting.palette": "",
    "nonconvex.reporting.pictures": "reporting.palette",
    "nonconvex.reporting.charts": "reporting.pictures",
    "nonconvex.reporting.page": "reporting.palette reporting.pictures",
    "nonconvex.reporting.circumstances": "reporting.page",
    "nonconvex.reporting.landmarks": "numerics",
    "nonconvex.reporting.factorization_pictures": (
        "distributed.agreement numerics reporting.charts reporting.landmarks reporting.pictures "
        "summary"
    ),
    "nonconvex.reporting.factorization": (
        "distributed.agreement distributed.prepared numerics reporting summary"
    ),
    "nonconvex.reporting.network_pictures": (
        "distributed.agreement network_summary reporting.charts reporting.pictures"
    ),
    "nonconvex.reporting.network": "distributed.agreement network_summary reporting",
    "nonconvex.factorization_report": "distributed numerics recommendation reporting",
    "nonconvex.network_report": "distributed network_baselines neural_network reporting",
    "nonconvex.run_reports": (
        "config distributed factorization_report factorization_sections network_baselines "
        "network_report network_sections numerics.errors recommendation reporting reports"
    ),
    "nonconvex.report_sections": "config distributed",
    "nonconvex.factorization_sections": (
        "config distributed estimator_sections recommendation report_sections sections"
    ),
    "nonconvex.network_sections": (
        "config distributed estimator_sections neural_network report_sections window_sections"
    ),
    "nonconvex.drift": "distributed numerics.moments recommendation reports",
    "nonconvex.network_baselines": "distributed neural_network numerics",
    "nonconvex.network_reports": "distributed network_summary reports",
    "nonconvex.models": "distributed model_files neural_network params recommendation",
    "nonconvex.prediction": "distributed models recommendation",
    "nonconvex.prediction_sections": "config network_sections serving_sections",
    "nonconvex.benchmark_measurements": "",
    "nonconvex.benchmark_memory": "",
    "nonconvex.benchmark_turns": "",
    "nonconvex.benchmark_data": "distributed numerics.planted",
    "nonconvex.benchmark_factorization": (
        "benchmark_data benchmark_measurements benchmark_turns recommendation"
    ),
    "nonconvex.benchmark_network": "benchmark_data benchmark_measurements benchmark_turns",
    "nonconvex.benchmark_trainers": "neural_network",
    "nonconvex.benchmark_sections": (
        "benchmark_data benchmark_factorization benchmark_network benchmark_trainers config "
        "distributed estimator_sections network_sections neural_network numerics.planted "
        "recommendation sections"
    ),
    "nonconvex.benchmark_process": (
        "benchmark_data benchmark_factorization benchmark_memory benchmark_network "
        "benchmark_sections config session"
    ),
    "nonconvex.benchmark_runs": (
        "benchmark_data benchmark_factorization benchmark_measurements benchmark_memory "
        "benchmark_network benchmark_process benchmark_sections"
    ),
    "nonconvex.benchmark_reports": "benchmark_measurements distributed reports",
    # jobs: configuration in, files out, no arithmetic
    "jobs.prepare_ratings": "job sections distributed",
    "jobs.train_factorization": (
        "baselines config distributed factorization_sections job numerics.errors recommendation "
        "drift releases reports run_reports"
    ),
    "jobs.evaluate": "baselines distributed factorization_sections job recommendation reports",
    "jobs.tutorial": "recommendation session",
    "jobs.recommend": "job serving_sections recommendation distributed",
    "jobs.train_network": (
        "config drift job network_baselines network_reports network_sections releases reports "
        "run_reports"
    ),
    "jobs.nightly": "",
    "jobs.nightly_dag": "",
    "jobs.predict": "distributed job models prediction prediction_sections",
    "jobs.benchmark": (
        "benchmark_measurements benchmark_reports benchmark_runs benchmark_sections distributed "
        "job reports"
    ),
}

# module or package, the nearest one counting: the third-party packages that it may import.
PACKAGES = {
    "nonconvex": "",
    "nonconvex.numerics": "numpy",
    "nonconvex.distributed": "numpy pyarrow pyspark py4j",
    "nonconvex.config": "pydantic pydantic_core",
    "nonconvex.session": "pyspark",
    "nonconvex.worker_daemon": "pandas pyarrow pyspark",
    "nonconvex.job": "pyspark.sql",
    "nonconvex.live": "rich",
    "nonconvex.tracking": "mlflow pyspark.sql",
    "nonconvex.params": "numpy pyspark.ml",
    "nonconvex.factorization_params": "pyspark.ml",
    "nonconvex.factorization_files": "numpy pyspark.ml",
    "nonconvex.summary": "numpy",
    "nonconvex.predictor": "numpy pyspark",
    "nonconvex.uncertain": "numpy pyspark",
    "nonconvex.explanations": "numpy pyarrow pyspark.sql",
    "nonconvex.network_params": "pyspark.ml",
    "nonconvex.network_plans": "numpy",
    "nonconvex.network_fitting": "numpy pyspark.sql",
    "nonconvex.network_model": "numpy pyspark",
    "nonconvex.neural_network": "pyspark",
    "nonconvex.sections": "pydantic pyspark.sql",
    "nonconvex.distributed.example_tables": "pyarrow pyspark sklearn",
    "nonconvex.estimator_sections": "pydantic pyspark.ml",
    "nonconvex.factorization_sections": "pydantic pyspark.sql",
    "nonconvex.network_sections": "pydantic pyspark.sql",
    "nonconvex.network_baselines": "numpy pyspark.sql",
    "nonconvex.models": "pyspark.sql",
    "nonconvex.lineage": "pyspark.sql",
    "nonconvex.releases": "pyspark.sql",
    "nonconvex.window_sections": "pydantic",
    "nonconvex.drift": "numpy pyarrow",
    "nonconvex.prediction": "pyspark.sql",
    "nonconvex.rating_columns": "pyspark.sql",
    "nonconvex.prediction_sections": "pydantic",
    "nonconvex.baselines": "numpy pyspark",
    "nonconvex.reports": "pyspark.sql",
    "nonconvex.reporting": "jinja2 matplotlib numpy",
    "nonconvex.factorization_report": "numpy pyarrow pyspark.sql",
    "nonconvex.network_report": "pyspark",
    "nonconvex.run_reports": "pyspark.sql",
    "nonconvex.report_sections": "pydantic pyspark.sql",
    "nonconvex.serving_sections": "pydantic",
    "nonconvex.starts": "numpy pyarrow",
    "nonconvex.benchmark_data": "numpy pyarrow pyspark",
    "nonconvex.benchmark_factorization": "pyspark",
    "nonconvex.benchmark_network": "pyspark.sql",
    "nonconvex.benchmark_process": "pyspark.sql",
    "nonconvex.benchmark_reports": "pyspark.sql",
    "nonconvex.benchmark_runs": "pyspark.sql",
    "nonconvex.benchmark_sections": "pydantic pyspark",
    "nonconvex.benchmark_trainers": "numpy pyarrow pyspark sklearn",
    "nonconvex.benchmark_turns": "pyspark.sql",
    "nonconvex.recommender": "pyspark.sql",
    "nonconvex.model_files": "pyspark.ml pyspark.sql",
    "nonconvex.factorization_model": "numpy pyarrow pyspark",
    "nonconvex.recommendation": "numpy pyarrow pyspark",
    "jobs": "pydantic pyspark.sql",
    "jobs.nightly_dag": "airflow",  # an example for those who have it, which nothing imports
}

# module or package: parts of the standard library that it has no use for.
BANNED = {
    "nonconvex.numerics": "logging os pathlib",  # pure functions of arrays
    "jobs": "argparse",  # nonconvex.job has the one command line
}

FILES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("nonconvex", "jobs")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
NUMERICS = [module for module in FILES if module.startswith("nonconvex.numerics")]


def imports(module: str) -> Iterator[str]:
    """Yield what a module imports, anywhere in its source, by full dotted name."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*above, *filter(None, [node.module])]) if node.level else node.module
            for alias in node.names:  # a name imported from a package may be a module
                full = f"{source}.{alias.name}"
                yield full if full in FILES else source


def within(name: str, allowed: str) -> bool:
    """Tell whether a dotted name is one of `allowed`, or inside one."""
    return any(f"{name}.".startswith(f"{one}.") for one in allowed.split())


def nearest(module: str, table: dict[str, str]) -> str:
    """Return what `table` says of a module, or of the nearest package around it."""
    while module and module not in table:
        module = module.rpartition(".")[0]
    return table.get(module, "")


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_what_the_table_allows(module):
    assert module in IMPORTS, (
        f"tests/test_imports.py does not know {module}: add a line to IMPORTS that says which "
        "modules of nonconvex it may import"
    )
    ours = " ".join(f"nonconvex.{name}" for name in IMPORTS[module].split())
    for name in imports(module):
        root = name.partition(".")[0]
        if name == "nonconvex":  # for the version: it imports nothing, see below
            continue
        if root in ("nonconvex", "jobs"):
            assert within(name, ours), f"{module} may not import {name}: see IMPORTS"
        elif root in sys.stdlib_module_names:
            banned = nearest(module, BANNED)
            assert not within(name, banned), f"{module} may not import {name}: see BANNED"
        else:
            packages = nearest(module, PACKAGES)
            assert within(name, packages), f"{module} may not import {name}: see PACKAGES"


def test_the_package_itself_imports_nothing():
    assert list(imports("nonconvex")) == []


def test_imports_point_one_way():
    graph = {module: {name for name in imports(module) if name in FILES} for module in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("module", NUMERICS)
def test_numerics_pull_in_numpy_alone(module):
    check = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"pandas", "py4j", "pyarrow", "pydantic", "pyspark"}
