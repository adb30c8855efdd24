"""Every byte of a directory that was sealed is one that was written."""

import json

import pytest

from nonconvex.distributed.files.atomic import ChecksumError, read_verified, verify, write_checksums


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
