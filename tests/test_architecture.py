"""The rules of docs/architecture.md: rings, packages, names, and paths in saved files."""

import ast
import graphlib
import importlib
import inspect
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from nonconvex.neural_network import MultilayerPerceptronClassifier
from nonconvex.recommendation import MatrixFactorization
from tests.processes import completed

REPOSITORY = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("nonconvex", "jobs")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}

# A ring imports itself and the rings above it in this table, and these third-party packages.
RINGS = {
    "nonconvex.numerics": "llvmlite numba numpy",
    "nonconvex.local": "numpy pyarrow",
    "nonconvex.distributed": "numpy pandas py4j pyarrow pyspark sklearn",
    "nonconvex.session": "pyspark",
    # pydantic, which is a core dependency, checks the JSON of saved models: it may be a stranger's.
    "nonconvex.estimators": "numpy pyarrow pydantic pyspark",
    "nonconvex.recommendation": "numpy pyarrow pyspark",
    "nonconvex.neural_network": "numpy pyarrow pyspark",
    "nonconvex.pipeline": "mlflow numpy pyarrow pydantic pydantic_core pyspark rich tomli_w",
    "nonconvex.report": "jinja2 matplotlib numpy pyarrow pyspark",
    "nonconvex.benchmark": "cmfrec numpy psutil pyarrow pydantic pyspark sklearn",
    "nonconvex.commands": "pyarrow pyspark",
    "jobs": "airflow pyspark",
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
    done = completed(sys.executable, "-c", check, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"pandas", "py4j", "pyarrow", "pydantic", "pyspark"}


def test_compiled_kernels_alone_import_numba():
    for module in FILES:
        if not module.startswith("nonconvex.numerics.compiled"):
            assert not {"numba", "llvmlite"} & {name.partition(".")[0] for name in imports(module)}


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
        "ALS": "nonconvex.recommendation",
        "ALSModel": "nonconvex.recommendation",
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


def test_sizes():
    """A stranger reads this many lines; delete or merge before adding to these numbers."""
    lines = {}
    for folder in ("nonconvex", "tests"):
        paths = (REPOSITORY / folder).rglob("*.py")
        lines[folder] = [len(path.read_text(encoding="utf-8").splitlines()) for path in paths]
    assert len(lines["nonconvex"]) <= 130
    assert sum(lines["nonconvex"]) <= 34_000
    assert sum(lines["tests"]) <= 21_500
    assert len(list((REPOSITORY / "nonconvex").glob("*.py"))) <= 4


def test_a_short_module_has_several_importers():
    importers = defaultdict(set)
    for module in FILES:
        for name in imports(module):
            importers[name].add(module)
    for module, tree in TREES.items():
        if module.startswith("nonconvex") and FILES[module].name != "__init__.py":
            assert len(importers[module]) != 1 or _lines_of_code(tree) >= 60, module


def _lines_of_code(tree: ast.Module) -> int:
    """Count the lines with code that is neither an import nor a docstring."""
    code, texts = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts.update(range(node.lineno, node.end_lineno + 1))
        elif hasattr(node, "lineno") and not isinstance(node, ast.Import | ast.ImportFrom):
            code.add(node.lineno)
    return len(code - texts)


@pytest.mark.parametrize(("kind", "most"), [("factorization", 22), ("network", 20)])
def test_a_fit_passes_through_few_modules(spark, kind, most):
    if kind == "factorization":
        estimator = MatrixFactorization(
            rank=2, maxIter=2, updates="executors", exchange="broadcast"
        )
        rows = [(u, i, float(u * i % 5)) for u in range(30) for i in range(20) if (u + i) % 3]
        frame = spark.createDataFrame(rows, "user int, item int, rating double")
    else:
        estimator = MultilayerPerceptronClassifier(layers=[4], maxIter=2)
        rows = [([float(u % 7), float(u % 3)], u % 2) for u in range(200)]
        frame = spark.createDataFrame(rows, "features array<double>, label int")
    passed = set()

    def note(called, event, _):
        if event == "call":
            passed.add(called.f_globals.get("__name__", ""))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        estimator.fit(frame)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert 10 < len([module for module in passed if module in FILES]) <= most


def test_the_map_is_true():
    """What docs/architecture.md calls ``module.py: name`` is there."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.findall(r"`([\w/]+\.py): ([\w.]+)`", text)
    assert len(found) > 20
    for path, name in found:
        files = [file for file in FILES.values() if file.as_posix().endswith(f"/{path}")]
        defined = r"^\s*(def|class) " + name.rpartition(".")[2] + r"\b"
        assert any(re.search(defined, file.read_text(), re.M) for file in files), (path, name)
