"""Which writers are gone."""

import subprocess
import sys
import time

from nonconvex.distributed.files import writers
from nonconvex.distributed.files.writers import abandoned, mark

PRINT = "from nonconvex.distributed.files.writers import mark; print(mark(), flush=True); input()"


def test_a_process_is_there_until_it_is_killed():
    long_ago = 0.0
    with subprocess.Popen(
        [sys.executable, "-c", PRINT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        written = process.stdout.readline().strip()
        assert not abandoned(written, long_ago, lease=1.0)
        process.kill()
        time.sleep(0.1)  # it is a zombie, as nobody has waited for it
        assert abandoned(written, time.time(), lease=1.0)


def test_a_number_that_means_another_process_now():
    machine, process, start = mark().split("-")
    assert abandoned(f"{machine}-{process}-{int(start) + 1}", time.time(), lease=1.0)


def test_another_machine_is_judged_by_its_silence():
    _, process, start = mark().split("-")
    other = f"00000000-{process}-{start}"
    assert not abandoned(other, time.time() - 5, lease=10.0)
    assert abandoned(other, time.time() - 15, lease=10.0)


def test_without_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(writers, "_PROC", tmp_path)
    assert not abandoned(mark(), time.time(), lease=1.0)
    assert writers._start(2**22 + 1) is None
