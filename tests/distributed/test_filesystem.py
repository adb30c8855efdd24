import pytest

from nonconvex.distributed.filesystem import FileSystem, FileSystemError, publish


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


def test_a_directory_appears_when_it_is_complete(spark, target):
    with publish(spark, str(target)) as directory:
        FileSystem(spark, directory).write_text(f"{directory}/a", "1")
        assert not target.exists()
    assert entries(target.parent) == ["a", "target"]


def test_a_directory_that_fails_leaves_nothing(spark, target):
    def write_half():
        with publish(spark, str(target)) as directory:
            FileSystem(spark, directory).write_text(f"{directory}/a", "1")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert entries(target.parent) == []


def test_a_directory_takes_the_place_of_another_or_leaves_it(spark, target):
    target.mkdir(parents=True)
    (target / "old").write_text("0")
    with pytest.raises(KeyError), publish(spark, str(target)) as directory:
        raise KeyError
    assert entries(target.parent) == ["old", "target"]
    with publish(spark, str(target)) as directory:
        FileSystem(spark, directory).write_text(f"{directory}/new", "1")
        assert (target / "old").exists()
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


def test_a_path_that_cannot_be_written_is_named(spark, tmp_path):
    (tmp_path / "file").write_text("0")
    path = f"{tmp_path}/file/target"
    with pytest.raises(FileSystemError, match=r"cannot be"), publish(spark, path):
        raise AssertionError
