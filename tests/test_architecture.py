"""The rules of docs/architecture.md: rings, packages, names, and paths in saved files."""

import ast
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("nonconvex", "jobs")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}

# A ring imports itself and the rings above it in this table, and these third-party packages.
RINGS = {
    "nonconvex.numerics": "numpy",
    "nonconvex.distributed": "numpy pandas py4j pyarrow pyspark sklearn",
    "nonconvex.session": "pyspark",
    "nonconvex.estimators": "numpy pyarrow pyspark",
    "nonconvex.recommendation": "numpy pyarrow pyspark",
    "nonconvex.neural_network": "numpy pyarrow pyspark",
    "nonconvex.pipeline": "mlflow numpy pyarrow pydantic pydantic_core pyspark rich tomli_w",
    "nonconvex.report": "jinja2 matplotlib numpy pyarrow pyspark",
    "nonconvex.benchmark": "numpy psutil pyarrow pydantic pyspark sklearn",
    "jobs": "airflow pydantic pyspark",
}
# Only these may touch what a session over Spark Connect does not have.
CLASSIC = re.compile(r"\b(sparkContext|_jvm|_jdf)\b|\.rdd\b")
CLASSIC_ONLY = {
    "nonconvex.distributed.runtime",
    "nonconvex.distributed.files",
    "nonconvex.distributed.factorization.execution",
    "nonconvex.distributed.network.gradients",
}


def ring(module: str) -> str | None:
    """Return the ring of a module; the package itself is in none."""
    return next((name for name in RINGS if f"{module}.".startswith(f"{name}.")), None)


def imports(module: str) -> Iterator[str]:
    """Yield what a module imports, anywhere in its source, by full dotted name."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            for alias in node.names:  # a name imported from a package may be a module
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else node.module or ""


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_the_rings(module):
    names = list(RINGS)
    for name in imports(module):
        root = name.partition(".")[0]
        if root in ("nonconvex", "jobs"):
            above, below = ring(module), ring(name)
            assert below is None or (
                above is not None and names.index(below) <= names.index(above)
            ), f"{module} may not import {name}"
        elif root not in sys.stdlib_module_names:
            allowed = RINGS.get(ring(module) or "", "").split()
            assert root in allowed, f"{module} may not import {name}: see RINGS"


def test_factorization_and_network_are_apart():
    words = {"factorization": "network", "network": "factorization"}
    words |= {"recommendation": "network", "neural_network": "factorization"}
    other = {"network": {"network", "neural_network"}}
    other["factorization"] = {"factorization", "recommendation"}
    for module in FILES:
        for part in set(module.split(".")) & set(words):
            for name in imports(module):
                assert not set(name.split(".")) & other[words[part]], f"{module} imports {name}"


def test_there_is_no_cycle():
    graph = {module: {name for name in imports(module) if name in FILES} for module in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_numerics_import_numpy_alone():
    numerics = [module for module in FILES if module.startswith("nonconvex.numerics")]
    check = f"import sys, {', '.join(numerics)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"pandas", "py4j", "pyarrow", "pydantic", "pyspark"}


def test_a_name_is_defined_once():
    where = defaultdict(list)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                where[node.name].append(module)
    del where["main"]  # of each job
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}


def test_what_is_saved_carries_a_public_path():
    """Spark writes the path of a class into its files, so these paths are for ever."""
    saved = {}
    for path in ("nonconvex.recommendation", "nonconvex.neural_network"):
        module = importlib.import_module(path)
        for name, one in inspect.getmembers(module, inspect.isclass):
            if hasattr(one, "read") and hasattr(one, "write") and name in module.__all__:
                saved[name] = one.__module__
    assert saved == {
        "MatrixFactorization": "nonconvex.recommendation",
        "MatrixFactorizationModel": "nonconvex.recommendation",
        "MultilayerPerceptronClassificationModel": "nonconvex.neural_network",
        "MultilayerPerceptronClassifier": "nonconvex.neural_network",
        "MultilayerPerceptronRegressionModel": "nonconvex.neural_network",
        "MultilayerPerceptronRegressor": "nonconvex.neural_network",
    }


def test_classic_spark_is_touched_in_four_modules():
    touching = {m for m, path in FILES.items() if CLASSIC.search(path.read_text(encoding="utf-8"))}
    assert touching <= CLASSIC_ONLY


def test_docstrings_name_or_command():
    asked = [
        f"{module}: {getattr(node, 'name', module)}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and re.match(r"(What|How|Which|Where|Who|Why|Whether)\b", ast.get_docstring(node) or "")
    ]
    assert not asked
