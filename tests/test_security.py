"""Nothing that is read can run: no pickle, no code in a configuration, no SQL made of data."""

import ast
import functools
import os
import pickle
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

from nonconvex.distributed import runtime
from nonconvex.distributed.connect import ConnectError, answer_batch, read_answers
from nonconvex.numerics.network.backprop import Sums
from nonconvex.pipeline.config import ConfigError, load
from nonconvex.pipeline.factorization.config import PreparationConfig

ROOT = Path(__file__).parent.parent
FILES = [path for part in ("nonconvex", "jobs") for path in sorted((ROOT / part).rglob("*.py"))]

# Modules that run what they read.
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
# Functions that do so, or take code, SQL or a shell's line as text.
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickleFile"}
# Methods of Spark that read SQL from a text: constants only.
SQL = {"sql", "expr", "selectExpr", "filter", "where"}
# Who may import by name or start a process, and why that name is not from data.
TRUSTED = {
    # The names are written there: a library of NumPy, pyplot, the modules of the models and the
    # commands.
    "import_module": {
        "nonconvex/estimators/display.py",
        "nonconvex/numerics/deterministic.py",
        "nonconvex/pipeline/models.py",
        "nonconvex/commands/__main__.py",
    },
    "run_path": set(),
    # What goes to the workers of a session, as Spark sends tasks; of what they answer, arrays and
    # records alone are read.
    "pickle": {"nonconvex/distributed/connect.py"},
}


def complaints(tree, file):
    """What a module does that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {name.name for name in node.names if name.name.split(".")[0] in MODULES}
            yield from (name for name in names if file not in TRUSTED.get(name, ()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        written = ast.unparse(function)
        if written == "re.compile":
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if not CALLS.isdisjoint((name, written)) or (name in TRUSTED and file not in TRUSTED[name]):
            yield f"{name}() in line {node.lineno}"
        if written in ("np.load", "numpy.load"):
            yield f"{name}() in line {node.lineno}"
        if "allow_pickle" in keywords or "shell" in keywords:
            yield f"{name}() in line {node.lineno}"
        if name in SQL and any(isinstance(argument, ast.JoinedStr) for argument in node.args):
            yield f"{name}() of a text put together in line {node.lineno}"


def test_nothing_that_is_read_is_run():
    found = {}
    for path in FILES:
        file = str(path.relative_to(ROOT))
        said = list(complaints(ast.parse(path.read_text()), file))
        if said:
            found[file] = said
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "frame.where(f'user = {name}')",
        "importlib.import_module(name)",
    ],
)
def test_what_would_be_found(line):
    assert list(complaints(ast.parse(line), "nonconvex/some.py"))


def test_a_server_answers_with_arrays_and_records_alone():
    answer = (3, {"x": np.eye(2), "y": np.float64(1.5)}, Sums(0.5, np.ones(3), 1.0))

    def said(content):
        answers = {"mapInArrow.return_value.toArrow.return_value": pa.table({"answer": [content]})}
        return read_answers(Mock(**answers), None)

    [found] = said(answer_batch(answer)["answer"][0].as_py())
    assert repr(found) == repr(answer)
    for harm in (os.system, eval, getattr, functools.partial, Path, runtime.delete_at_exit):
        with pytest.raises(ConnectError, match=r"which no task of nonconvex sends"):
            said(pickle.dumps(harm))
    with pytest.raises(ConnectError, match=r"runtime\.os\.system"):
        said(b"\x80\x04\x8c\x1dnonconvex.distributed.runtime\x8c\tos.system\x93.")


def test_a_configuration_is_values_and_nothing_else(tmp_path):
    path = tmp_path / "config.toml"
    texts = ["__import__('os').system('true')", "${HOME}", "$(id)", "{0.__class__}", "../{path}"]
    for text in texts:
        path.write_text(f"[ratings]\npath = '''{text}'''\n[prepared]\npath = 'p'\n")
        assert load(PreparationConfig, path).ratings.path == text
    path.write_text("[ratings]\npath = print('x')\n")
    with pytest.raises(ConfigError, match="TOML"):
        load(PreparationConfig, path)
