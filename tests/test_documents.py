"""The README, CONTRIBUTING.md and docs/: links resolve, examples run, and named things exist."""

import re
import shlex
import tomllib
import unicodedata
from datetime import date
from pathlib import Path
from typing import get_type_hints

import pyarrow.parquet as pq
import pytest
from pyspark.ml.classification import MultilayerPerceptronClassifier as MLlibClassifier
from pyspark.ml.recommendation import ALS

from nonconvex.commands.__main__ import COMMANDS
from nonconvex.neural_network import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from nonconvex.pipeline.config import load
from nonconvex.recommendation import MatrixFactorization
from tests.factories import most_rated

REPOSITORY = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8")
    for path in (
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    )
}
WITH_EXAMPLES = [name for name, text in PAGES.items() if "```python\n" in text]
SAMPLE = "tests/data/movietweetings/ratings.parquet"


def blocks(page, language):
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def prose(page):
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    lowered = (heading.lower().replace("`", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in lowered}


def section(page, title):
    """Return a section of a page, without its heading."""
    [text] = re.findall(
        rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", PAGES[page], flags=re.DOTALL | re.MULTILINE
    )
    return text


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert target.exists(), f"{page}: {link}: there is no such file"
        if anchor:
            name = str(target.resolve().relative_to(REPOSITORY.resolve()))
            assert anchor in anchors(name), f"{page}: {link}: there is no such heading"


def test_every_page_is_linked_from_the_readme():
    linked = {name for name in PAGES if name == "README.md" or f"]({name})" in PAGES["README.md"]}
    assert linked == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    text = PAGES[page]
    named = re.findall(r"(?:conf|jobs|tests)/[a-z][\w/]*\.(?:py|toml|conf|parquet)\b", text)
    named += re.findall(r"\bnonconvex/[\w/]+\.py\b", text)
    missing = {name for name in named if not (REPOSITORY / name).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_named_modules_exist(page):
    for name in set(re.findall(r"`(nonconvex(?:\.\w+)+)`", PAGES[page])):
        module = REPOSITORY.joinpath(*name.split("."))
        if module.is_dir() or module.with_suffix(".py").exists():
            continue
        package = module.parent / "__init__.py"
        source = package if package.exists() else module.parent.with_suffix(".py")
        assert source.exists(), f"{page}: there is no {name}"
        defined = rf"^((def|class) {module.name}\b|{module.name} = )"
        assert re.search(defined, source.read_text(encoding="utf-8"), re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_valid_configurations(page):
    """Commands that name a file in conf/: the job accepts it, with every ``--set``."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if " --config conf/" not in line:
                continue
            words = shlex.split(line)
            after = words[words.index("--config") - 1]
            job = next((word for word in words if word.startswith("jobs/")), after)
            given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            days = [words[i + 1] for i, word in enumerate(words) if word == "--run-date"]
            path = REPOSITORY / words[words.index("--config") + 1]
            run_date = date.fromisoformat(days[0]) if days else None
            load(_config_of(job), path, given, run_date=run_date)


@pytest.mark.parametrize("page", PAGES)
def test_configurations_are_valid(page, tmp_path):
    """Configurations of the benchmark as a whole; of others, the Params."""
    factorization, classifier, regressor = _params()
    known = {"factorization": factorization, "network": classifier | regressor}
    for block in blocks(page, "toml"):
        table = tomllib.loads(block)
        if "output" in table:
            path = tmp_path / "benchmark.toml"
            path.write_text(block, encoding="utf-8")
            load(_config_of("jobs/benchmark.py"), path)
        else:
            assert all(set(table[part]) <= known[part] for part in table)


def _config_of(job):
    """Return the type of the configuration of a job, by its command or its script."""
    for name, command in COMMANDS.items():
        if job in (name, f"jobs/{command.job}.py"):
            return get_type_hints(command.load())["config"]
    raise AssertionError(f"there is no {job}")


def test_the_readme_is_short():
    lines = PAGES["README.md"].splitlines()
    assert len(lines) < 150
    for line in prose("README.md").splitlines():
        assert sum(not unicodedata.combining(character) for character in line) <= 110
    commands = [line for line in lines if re.match(r"python3 -m venv .* pytest$", line)]
    assert len(commands) == 1  # which continuous integration runs


def test_the_picture_is_small():
    assert (REPOSITORY / ".github" / "report.png").stat().st_size <= 300_000


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_run(page, spark, few_ratings, tmp_path, monkeypatch, capsys):
    """Run the examples of a page in order; in docs/, on a few hundred ratings of the sample."""
    if any("sklearn" in block for block in blocks(page, "python")):
        pytest.importorskip("sklearn")
    monkeypatch.chdir(REPOSITORY)
    names = {"spark": spark}
    for block in blocks(page, "python"):
        code = block.replace('"output/', f'"{tmp_path}/')
        if page != "README.md":
            code = code.replace(SAMPLE, str(few_ratings))
        exec(compile(code, page, "exec"), names)
    if page == "README.md":
        assert (tmp_path / "model" / "metadata").is_dir()
    elif page == "docs/networks.md":
        [accuracy] = re.findall(r"^0\.\d+$", capsys.readouterr().out, flags=re.MULTILINE)
        assert float(accuracy) > 0.95
        assert (tmp_path / "network" / "metadata").is_dir()


@pytest.fixture(scope="module")
def few_ratings(tmp_path_factory):
    """The ratings of the 20 most active users, of the 100 most rated items."""
    path = tmp_path_factory.mktemp("few") / "ratings.parquet"
    pq.write_table(most_rated(pq.read_table(REPOSITORY / SAMPLE), items=100, users=20), path)
    return path


def _params():
    kinds = MatrixFactorization, MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
    return [{param.name for param in kind().params} for kind in kinds]


# The column of each table of Params that names those of an estimator, by its position in `_params`.
PARAM_TABLES = [
    ("docs/factorization.md", "The model", 1, (0,)),
    ("docs/factorization.md", "Coming from ALS", 1, (0,)),
    ("docs/networks.md", "Coming from MultilayerPerceptronClassifier", 1, (1,)),
]


@pytest.mark.parametrize(("page", "title", "column", "estimators"), PARAM_TABLES)
def test_params_in_tables_exist(page, title, column, estimators):
    """Every name in the column that looks like a Param is one, or an attribute of the class."""
    ours = set().union(*(_params()[position] for position in estimators))
    named = {
        name
        for row in _rows(section(page, title))
        for code in re.findall(r"`([^`]*)`", row[column])
        for name in re.findall(r"\b[a-z]+[A-Za-z]*\b", re.sub(r'"[^"]*"', "", code))
    }
    assert len(named & ours) >= 4
    columns = {"id", "bias", "features"}  # of userFactors
    others = {"setInitialModel", "model", "weights", "summary", "n", "exclude", "candidates"}
    assert named <= ours | columns | others, named - ours - columns - others


def _rows(text):
    """Return the cells of each row of the table in a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]


@pytest.mark.parametrize(
    ("page", "theirs"), [("factorization", ALS), ("networks", MLlibClassifier)]
)
def test_every_param_of_mllib_is_accounted_for(page, theirs):
    params = set(theirs.__init__.__wrapped__.__kwdefaults__)
    assert {"maxIter", "seed"} <= params
    named = re.findall(r"\w+", section(f"docs/{page}.md", f"Coming from {theirs.__name__}"))
    assert params <= set(named), params - set(named)
