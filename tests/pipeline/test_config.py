"""Configuration: what loads, what is refused and in which words, and the way back to TOML."""

import math
import tomllib
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from nonconvex.pipeline.config import ConfigError, Section, check_keys, dump, load


class Column(Section):
    name: str
    width: int = Field(default=8, ge=1)


class Split(Section):
    kind: Literal["random", "temporal"] = "random"
    fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: int | str = 7
    since: date | None = None

    @model_validator(mode="after")
    def _temporal_splits_need_a_date(self) -> "Split":
        if self.kind == "temporal" and self.since is None:
            raise ValueError("a temporal split needs since")
        return self


class Training(Section):
    rank: int = Field(default=10, ge=0)
    maxIter: int = 15
    shuffle: bool = True
    tolerance: float = 1e-4
    output: Path = Path("output")
    grid: tuple[float, ...] = ()

    @field_validator("tolerance")
    @classmethod
    def _not_nan(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("must be a number, got nan")
        return value


class Config(Section):
    title: str = ""
    training: Training = Training()
    split: Split | None = None
    columns: list[Column] = Field(default_factory=list)
    factorization: dict[str, Any] = Field(default_factory=dict)


@pytest.fixture
def config(tmp_path):
    """Load a text, with overrides."""

    def load_text(text="", *overrides):
        path = tmp_path / "job.toml"
        path.write_text(text, encoding="utf-8")
        return load(Config, path, overrides)

    return load_text


@pytest.fixture
def refusal(config, tmp_path):
    """The message with which a text is refused, without the file's name."""

    def message(text="", *overrides):
        with pytest.raises(ConfigError) as caught:
            config(text, *overrides)
        head, _, sentence = str(caught.value).partition(": ")
        assert head == str(tmp_path / "job.toml") + (" with --set" if overrides else "")
        return sentence

    return message


def test_an_empty_file_gives_the_defaults_which_cannot_be_changed(config):
    assert config() == Config()
    with pytest.raises(ValueError, match="frozen"):
        config().training.rank = 4


def test_every_toml_type_finds_its_field(config):
    loaded = config(
        """
        title = "α × β"
        [training]
        rank = 3
        shuffle = false
        tolerance = 1
        output = "models/run 1"
        grid = [1, 2.5, inf]
        [split]
        kind = "temporal"
        since = 2020-02-29
        seed = "spring"
        [[columns]]
        name = "user"
        [factorization]
        regUser = 1e-3
        """
    )
    run, grid = Path("models/run 1"), (1.0, 2.5, math.inf)
    assert loaded == Config(
        title="α × β",
        training=Training(rank=3, shuffle=False, tolerance=1.0, output=run, grid=grid),
        split=Split(kind="temporal", since=date(2020, 2, 29), seed="spring"),
        columns=[Column(name="user")],
        factorization={"regUser": 1e-3},
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "cannot read the configuration .*: No such file"),
        (".", "cannot read the configuration .*: Is a directory"),
        ("broken", "broken is not valid TOML: .*line 2"),
        ("bytes", "bytes is not valid TOML: .*utf-8"),
        ("lists", "lists is not valid TOML: .*recursion"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, message):
    (tmp_path / "broken").write_text("[training]\nrank 3")
    (tmp_path / "bytes").write_bytes(b"title = '\xff'")
    (tmp_path / "lists").write_text("title = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match=message):
        load(Config, tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nrnak = 3", "unknown key training.rnak; did you mean training.rank?"),
        ("[training]\nRANK = 3", "unknown key training.RANK; did you mean training.rank?"),
        ("[training]\nRank = 3", "unknown key training.Rank; did you mean training.rank?"),
        (
            "[training]\nmax_iter = 3",
            "unknown key training.max_iter; did you mean training.maxIter?",
        ),
        ("[trainig]\nrank = 3", "unknown key trainig; did you mean training?"),
        (
            "[[columns]]\nname = 'user'\n[[columns]]\nname = 'item'\nwdth = 3",
            "unknown key columns.1.wdth; did you mean columns.1.width?",
        ),
        # A key near to nothing: what there is is listed, and once.
        ("[split]\nxyz = 3", "unknown key split.xyz; allowed: kind, fraction, seed, since"),
        (
            "[split]\nxyz = 3\nsede = 1\nuvw = 3",
            "unknown key split.sede; did you mean split.seed?; "
            "unknown keys split.xyz, split.uvw; allowed: kind, fraction, seed, since",
        ),
        ('"a.b" = 3', 'unknown key "a.b"; allowed: title, training, split, columns, factorization'),
        ('[training]\nrank = "5"', 'training.rank must be an integer, got "5"'),
        ("[training]\nrank = 5.0", "training.rank must be an integer, got 5.0"),
        ("[training]\nrank = true", "training.rank must be an integer, got true"),
        ("[training]\nrank = -5", "training.rank must be greater than or equal to 0, got -5"),
        ("[training]\nshuffle = 1", "training.shuffle must be a boolean, got 1"),
        ('[training]\ntolerance = "x"', 'training.tolerance must be a number, got "x"'),
        ("[training]\ngrid = [1, 'b']", 'training.grid.1 must be a number, got "b"'),
        ("[training]\noutput = 3", "training.output must be a string, got 3"),
        ("[split]\nfraction = 1.5", "split.fraction must be less than 1, got 1.5"),
        ("[split]\nkind = 'x'", "split.kind must be 'random' or 'temporal', got \"x\""),
        ("[split]\nseed = 1.5", "split.seed must be an integer or a string, got 1.5"),
        ("title = [1, 2]", "title must be a string, got [1, 2]"),
        ("training = 3", "training must be a table, got 3"),
        ("[title]\na = 3", "title must be a string, got a table"),
        ("[[columns]]\nwidth = 3", "columns.0.name is required and not given"),
        # A validator says it, of a section or of a field.
        ("[split]\nkind = 'temporal'", "split: a temporal split needs since"),
        ("[training]\ntolerance = nan", "training.tolerance: must be a number, got nan"),
        (
            "titel = 'x'\n[training]\nrank = -1",
            "training.rank must be greater than or equal to 0, got -1; "
            "unknown key titel; did you mean title?",
        ),
    ],
)
def test_every_fault_is_named(refusal, text, message):
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["training.rank=3"], {"rank": 3}),
        (["training.rank = 3"], {"rank": 3}),
        (["training.rank=3", "training.rank=4"], {"rank": 4}),
        (["training.maxIter=2"], {"maxIter": 2}),
        (["training.shuffle=false"], {"shuffle": False}),
        (["training.tolerance=1e-8"], {"tolerance": 1e-8}),
        (["training.grid=[1, 2]"], {"grid": (1.0, 2.0)}),
        (["training.output=/data/a=b"], {"output": Path("/data/a=b")}),
        (['training.output="quoted"'], {"output": Path("quoted")}),
        (["training.output= s3a://bucket/x "], {"output": Path("s3a://bucket/x")}),
    ],
)
def test_overrides(config, overrides, changed):
    loaded = config("[training]\nrank = 7", *overrides)
    assert loaded.training == Training(**{"rank": 7} | changed)


def test_an_empty_string_and_a_section_that_the_file_does_not_have(config):
    loaded = config("title = 'x'", "title=", "split.fraction=0.2")
    assert loaded == Config(split=Split(fraction=0.2))


def test_an_override_of_an_unknown_key(refusal):
    assert "did you mean training.rank?" in refusal("", "training.rnak=3")


@pytest.mark.parametrize("text", ["training.rank", "=3", "a b=3", "", "training.=3"])
def test_malformed_overrides(config, text):
    with pytest.raises(ConfigError, match=r"--set takes section\.key=value, got '"):
        config("", text)


def test_keys_are_checked_and_each_unknown_one_is_named():
    check_keys("factorization", ["rank"], iter(["rank", "maxIter"]))
    with pytest.raises(ConfigError) as caught:
        check_keys("factorization", ["rank", "rnak", "xyz"], iter(["rank", "maxIter"]))
    assert str(caught.value) == (
        "unknown key factorization.rnak; did you mean factorization.rank?; "
        "unknown key factorization.xyz; allowed: rank, maxIter"
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALAR = st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(TEXT, VALUE, max_size=4), TEXT)
def test_what_is_written_loads_back_equal(tmp_path_factory, factorization, title):
    written = Config(title=title, factorization=factorization)
    path = tmp_path_factory.mktemp("dump") / "job.toml"
    path.write_text(dump(written), encoding="utf-8", newline="")
    assert load(Config, path) == written


def test_typed_values_load_back_equal(config):
    written = Config(
        training=Training(output=Path("a b"), grid=(1.0, math.inf)),
        split=Split(kind="temporal", since=date(2020, 2, 29)),
        columns=[Column(name="user", width=2), Column(name="item")],
    )
    assert config(dump(written)) == written
    assert tomllib.loads(dump(Config()))["training"]["rank"] == 10  # a default


def test_the_text_that_is_written():
    class Job(Section):
        title: str
        free: dict[str, Any]

    text = dump(Job(title='a "b"', free={"reg": 1e-08, "on": True, "of": {"odd key": []}}))
    assert text == (
        'title = "a \\"b\\""\n\n[free]\nreg = 1e-08\non = true\n\n[free.of]\n"odd key" = []\n'
    )


def test_null_in_a_list_is_refused():
    with pytest.raises(ConfigError, match="no way to write None inside a list"):
        dump(Config(factorization={"a": [None]}))
