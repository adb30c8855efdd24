"""Which writers are gone; every byte of a sealed directory is one that was written."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from nonconvex.distributed import files as writers
from nonconvex.distributed.files import (
    ChecksumError,
    ConcurrencyError,
    FileSystem,
    FileSystemError,
    is_stale,
    process_token,
    publish,
    read_verified,
    verify,
    write_checksums,
)


def entries(directory):
    return sorted(path.name for path in directory.rglob("*") if path.suffix != ".crc")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "deep" / "target"


def test_text_comes_back(spark, tmp_path):
    files = FileSystem(spark, str(tmp_path))
    files.write_text(f"{tmp_path}/a.txt", "λ₁ ≥ 0\n")
    files.write_text(f"{tmp_path}/a.txt", "γ\n")
    assert files.read_text(f"{tmp_path}/a.txt") == "γ\n"
    assert files.exists(f"{tmp_path}/a.txt")
    assert files.names(str(tmp_path)) == ["a.txt"]
    files.delete(f"{tmp_path}/a.txt")
    assert not files.exists(f"{tmp_path}/a.txt")


def test_what_cannot_be_done_is_named(spark, tmp_path):
    files = FileSystem(spark, str(tmp_path))
    with pytest.raises(FileSystemError, match=r"no\.txt cannot be read: .*no\.txt"):
        files.read_text(f"{tmp_path}/no.txt")
    with pytest.raises(FileSystemError, match=r"cannot be listed"):
        files.names(f"{tmp_path}/no")
    with pytest.raises(FileSystemError, match=r"ftp9://x cannot be reached: .*ftp9"):
        FileSystem(spark, "ftp9://x")
    (tmp_path / "file").write_text("0")
    with pytest.raises(FileSystemError, match="cannot be"), publish(spark, f"{tmp_path}/file/x"):
        raise AssertionError


@pytest.mark.parametrize("again", [None, "second"])
def test_a_file_that_another_process_removes_while_it_is_looked_at(spark, tmp_path, again):
    path, files = f"{tmp_path}/file", FileSystem(spark, str(tmp_path))

    def look():  # in two steps, and the file is removed between the first two
        if (text := files.read_text(path)) == "first":
            files.delete(path)
        try:
            return text, files.modified(path) > 0
        finally:
            if again and text == "first":
                files.write_text(path, again)

    files.write_text(path, "first")
    assert files.unless_gone(path, look) == (again and (again, True))


@pytest.mark.parametrize("before", [[], ["old", "target"]])
def test_a_directory_appears_when_it_is_complete_and_else_leaves_what_was(
    spark, target, before, monkeypatch
):
    if before:
        target.mkdir(parents=True)
        (target / "old").write_text("0")
    with pytest.raises(KeyError), publish(spark, str(target)) as directory:  # noqa: PT012
        FileSystem(spark, directory).write_text(f"{directory}/new", "1")
        raise KeyError
    assert entries(target.parent) == before
    make_directory = FileSystem.make_directory

    def fail(self, path):  # as if its permissions could not be set
        make_directory(self, path)
        raise FileSystemError("full")

    with monkeypatch.context() as patch:
        patch.setattr(FileSystem, "make_directory", fail)
        with pytest.raises(FileSystemError, match="full"), publish(spark, str(target)):
            pass
    assert entries(target.parent) == before
    with publish(spark, str(target)) as directory:
        FileSystem(spark, directory).write_text(f"{directory}/new", "1")
        assert target.exists() == (target / "old").exists() == bool(before)
    assert entries(target.parent) == ["new", "target"]


def test_a_directory_that_cannot_be_renamed_in_leaves_the_old_one(spark, target, monkeypatch):
    target.mkdir(parents=True)
    (target / "old").write_text("0")
    rename = FileSystem.rename

    def fail_once(self, path, to):
        if to == str(target) and not target.exists():
            monkeypatch.setattr(FileSystem, "rename", rename)
            raise FileSystemError("the disk is full")
        rename(self, path, to)

    monkeypatch.setattr(FileSystem, "rename", fail_once)
    with pytest.raises(FileSystemError, match="full"), publish(spark, str(target)):
        pass
    assert entries(target.parent) == ["old", "target"]


@pytest.mark.parametrize("scheme", ["file", "hdfs", "s3a"])
def test_a_file_is_new_once_or_replaced_and_leaves_no_other(spark, tmp_path, scheme):
    files = FileSystem(spark, str(tmp_path))
    files._scheme = scheme  # the local file system knows these ways, too
    for text in ("old", "λ"):
        files.replace_text(f"{tmp_path}/a", text)
        assert files.read_text(f"{tmp_path}/a") == text
    assert files.names(str(tmp_path)) == ["a"]
    files.delete(f"{tmp_path}/a")
    assert files.write_new(f"{tmp_path}/a", "1")
    assert not files.write_new(f"{tmp_path}/a", "2")
    assert files.read_text(f"{tmp_path}/a") == "1"
    names = files.names(str(tmp_path))
    assert [name for name in names if scheme == "file" or name[0] != "."] == ["a"]


def test_a_file_that_cannot_be_replaced_stays(spark, tmp_path, monkeypatch):
    files = FileSystem(spark, str(tmp_path))
    files.replace_text(f"{tmp_path}/a", "old")
    hadoop, raw = files._files, files._files.getRaw()
    stuck = SimpleNamespace(create=raw.create, delete=raw.delete, rename=lambda path, to: False)
    stuck = SimpleNamespace(getRaw=lambda raw=stuck: raw, makeQualified=hadoop.makeQualified)
    monkeypatch.setattr(files, "_files", stuck)
    files._scheme = "file"
    with pytest.raises(FileSystemError, match=r"/a cannot be replaced"):
        files.replace_text(f"{tmp_path}/a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir() if file.name[0] != ".") == ["a"]


def test_a_directory_that_another_process_removes_meanwhile_is_no_hindrance(
    spark, target, monkeypatch
):
    target.mkdir(parents=True)
    rename = FileSystem.rename

    def rename_late(self, path, place):
        if path == str(target):
            target.rmdir()
        rename(self, path, place)

    monkeypatch.setattr(FileSystem, "rename", rename_late)
    with publish(spark, str(target)) as directory:
        FileSystem(spark, directory).write_text(f"{directory}/new.txt", "x")
    assert entries(target.parent) == ["new.txt", "target"]


def test_a_directory_that_another_process_has_written_meanwhile_stays(spark, target):
    message = r"target: another process has written that meanw"
    publication = publish(spark, str(target), replace=False)
    with pytest.raises(ConcurrencyError, match=message), publication:  # noqa: PT012
        target.mkdir()
        (target / "theirs").write_text("1")
    assert entries(target.parent) == ["target", "theirs"]


def test_a_directory_that_appears_at_the_very_moment_stays(spark, target, monkeypatch):
    """Hadoop renames into a directory that is there, and says that all is well."""
    target.mkdir(parents=True)
    (target / "theirs").write_text("1")
    files = FileSystem(spark, str(target))
    other = target.parent / "other"
    other.mkdir()
    exists, answers = files._files.exists, iter([False])
    first_no = lambda path: next(answers, None) is None and exists(path)  # noqa: E731
    monkeypatch.setattr(files._files, "exists", first_no, raising=False)
    with pytest.raises(ConcurrencyError, match=r"other cannot be renamed to .*target: another"):
        files.rename(str(other), str(target))
    assert entries(target.parent) == ["target", "theirs"]


def test_what_a_killed_process_left_is_swept_and_what_it_moved_away_is_put_back(spark, target):
    gone, old = "00000000-1-1", time.time() - 90_000
    target.parent.mkdir()
    for name in (
        f".target.{gone}.0123abcd",
        f".target.{gone}.4567abcd.old",
        f".another.{gone}.0123abcd",
        f".target.{process_token()}.0123abcd",
    ):
        (target.parent / name).mkdir()
        os.utime(target.parent / name, (old, old))
    with pytest.raises(ConcurrencyError), publish(spark, str(target), replace=False):
        pass
    kept = [f".another.{gone}.0123abcd", f".target.{process_token()}.0123abcd", "target"]
    assert entries(target.parent) == sorted(kept)


def test_empty_files_are_those_that_spark_would_read(spark, tmp_path):
    files = FileSystem(spark, str(tmp_path))
    read = ["a/part.parquet", "a/day=1/p", "a/_day=1/p", "b [1]/ünï.parquet"]
    for name in [*read, "a/_SUCCESS", "a/.p.crc", "a/_temporary/0/p", "a/x._COPYING_", "a/.h/p"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "full").write_text("1")
    assert files.empty_files(f"{tmp_path}/a") == sorted(read[:3])
    assert files.empty_files(f"{tmp_path}/a/{{day=1,_day=1}}") == ["_day=1/p", "day=1/p"]
    assert files.empty_files(rf"{tmp_path}/b \[1\]") == read[3:]
    assert files.empty_files(f"{tmp_path}/a/p*") == ["part.parquet"]
    assert files.empty_files(f"{tmp_path}/no") == []


@pytest.mark.parametrize("scheme", ["file", "s3a"])
def test_files_are_listed_one_directory_at_a_time_or_all_at_once(
    spark, tmp_path, monkeypatch, scheme
):
    """The local disk plays the store of objects, whose files Hadoop lists itself."""
    monkeypatch.setattr(FileSystem, "_scheme", scheme)
    contents = {"a": b"", "b/c": b"12", "b/d/e": b"3", "b/d/f": b""}
    for name, content in contents.items():
        file = tmp_path / "top" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "top" / "empty").mkdir()
    files = FileSystem(spark, str(tmp_path))
    found = files.sizes(str(tmp_path / "top"))
    assert list(found.items()) == [(name, len(content)) for name, content in contents.items()]
    assert files.empty_files(str(tmp_path / "*")) == ["top/a", "top/b/d/f"]
    with pytest.raises(FileSystemError, match=f"{tmp_path}/no cannot be listed"):
        files.sizes(str(tmp_path / "no"))


PRINT = """
from nonconvex.distributed.files import process_token
print(process_token(), flush=True); input()
"""


def test_a_process_is_there_until_it_is_killed():
    command, pipe = [sys.executable, "-c", PRINT], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        written = process.stdout.readline().strip()
        assert not is_stale(written, 0.0, lease=1.0)  # however long ago
        process.kill()
        time.sleep(0.1)  # it is a zombie, as nobody has waited for it
        assert is_stale(written, time.time(), lease=1.0)


def test_who_is_gone_by_number_machine_and_silence(monkeypatch, tmp_path):
    machine, process, start = process_token().split("-")
    assert is_stale(f"{machine}-{process}-{int(start) + 1}", time.time(), lease=1.0), "a new one"
    elsewhere = f"00000000-{process}-{start}"
    assert not is_stale(elsewhere, time.time() - 5, lease=10.0)
    assert is_stale(elsewhere, time.time() - 15, lease=10.0)
    monkeypatch.setattr(writers, "_PROC", tmp_path)  # as without Linux
    assert not is_stale(process_token(), time.time(), lease=1.0)
    assert writers._start(2**22 + 1) is None


@pytest.fixture
def sealed(spark, tmp_path):
    place = tmp_path / "a model #1"
    (place / "factors").mkdir(parents=True)
    (place / "factors" / "part-0.parquet").write_bytes(bytes(range(256)))
    (place / "factors" / "_SUCCESS").touch()
    (place / "factors" / ".part-0.parquet.crc").write_bytes(b"Hadoop's own")
    (place / "metadata.json").write_text('{"α": 0.25}')
    write_checksums(spark, str(place))
    for crc in place.glob(".*.crc"):
        crc.unlink()  # as after a copy to elsewhere
    (place / "factors" / ".part-0.parquet.crc").unlink()
    return place


def test_what_is_as_it_was_passes(spark, sealed):
    said = json.loads((sealed / "checksums.json").read_text())["files"]
    assert list(said) == ["factors/part-0.parquet", "metadata.json"]
    (sealed / "factors" / "_SUCCESS").unlink()  # Spark does not read it
    verify(spark, str(sealed))
    assert read_verified(spark, str(sealed), "metadata.json") == '{"α": 0.25}'


@pytest.mark.parametrize("name", ["factors/part-0.parquet", "metadata.json", "checksums.json"])
def test_a_flipped_bit_anywhere_is_one_sentence(spark, sealed, name):
    path = sealed / name
    content = path.read_bytes()
    places = range(0, len(content), 1 + len(content) // 8)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ChecksumError) as caught:
            verify(spark, str(sealed))
        assert caught.value.exit_status == 3
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    verify(spark, str(sealed))


def test_files_that_are_too_short_too_many_or_gone(spark, sealed):
    def refused(match):
        with pytest.raises(ChecksumError, match=match):
            verify(spark, str(sealed))

    factors = sealed / "factors" / "part-0.parquet"
    factors.write_bytes(bytes(200))
    refused(r"part-0\.parquet is damaged: it has 200 bytes, not 256")
    factors.unlink()
    refused(r"lacks factors/part-0\.parquet")
    factors.write_bytes(bytes(range(256)))
    more = sealed / "factors" / "part-1.parquet"
    more.touch()
    refused(r"has, though it was not saved, factors/part-1\.parquet")
    more.unlink()
    (sealed / "metadata.json").write_text('{"α": 0.26}')
    with pytest.raises(ChecksumError, match="is damaged: its checksum differs"):
        read_verified(spark, str(sealed), "metadata.json")
    with pytest.raises(ChecksumError, match="cannot be read"):
        read_verified(spark, str(sealed), "nothing.json")
    (sealed / "checksums.json").unlink()
    refused(r"has no readable checksums\.json")
