"""Random faults on a standalone cluster, and the count of what came of them.

``python -m tests.jobs.faults --seconds 300 --seed 1`` prints a report and ends with status 1 if a
model was published that should not be, or a refusal was not one sentence.  A round is a training
job, or two at once, and one fault at a random moment.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.jobs.cluster import ROOT, Cluster, model_bits

JOB = ROOT / "jobs/train_factorization.py"
CONFIG = """
[ratings]
path = "{ratings}"
[prepared]
path = "{disk}/prepared"
user_blocks = 4
item_blocks = 4
[factorization]
rank = 4
maxIter = 6
tol = 0.0
updates = "executors"
checkpointPath = "{disk}/checkpoint"
checkpointInterval = 1
[output]
path = "{disk}/runs"
keep = 2
[report]
write = false
"""
FAULTS = ("none", "worker", "executor", "python", "disk", "twice", "bit", "rot")
"""Nothing; a worker, an executor or its Python killed; the disk full for a while; a second job; a
bit of a byte flipped in what the job will read; one in the published model, which must be refused.
"""
LONGEST = 1_500  # characters of a refusal


class Faults:
    """Rounds on one cluster, in one directory; `wrong` has what must never be."""

    def __init__(self, root, seed):
        self.root, self.disk = root, root / "disk"
        self.draw = random.Random(seed)
        self.counts, self.wrong = Counter(), []
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", self.disk]
        self.small = not subprocess.run(mount, check=False, capture_output=True).returncode
        ratings = ROOT / "tests/data/movietweetings/ratings.parquet"
        self.config = root / "config.toml"
        self.config.write_text(CONFIG.format(ratings=ratings, disk=self.disk))
        self.package = root / "nonconvex.zip"
        with zipfile.ZipFile(self.package, "w") as archive:
            for file in sorted((ROOT / "nonconvex").rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(ROOT))
        self.cluster = Cluster(root)
        self.bits = None

    def close(self):
        self.cluster.stop()
        if self.small:
            subprocess.run(["umount", "-l", self.disk], check=False)

    def run(self, seconds):
        """Make rounds until the time is over; return the report."""
        end, start, number = time.monotonic() + seconds, time.monotonic(), 0
        while time.monotonic() < end or self.bits is None:
            fault = self.draw.choice(FAULTS) if self.bits is not None else "none"
            self.round(number, fault)
            number += 1
        lines = [f"{number} rounds in {time.monotonic() - start:.0f} s, {len(self.wrong)} wrong"]
        lines += [f"{count:5d}  {what}" for what, count in sorted(self.counts.items())]
        return "\n".join([*lines, *(f"WRONG: {what}" for what in self.wrong)])

    def round(self, number, fault):
        """Run a job under a fault, look at its end and at what is published, and clear up."""
        self.cluster.restore()
        if fault == "bit" and not self.flip(self.draw.choice(["prepared", "checkpoint"])):
            fault = "none"
        jobs = [self.start(number, 0)]
        if fault == "twice":
            jobs.append(self.start(number, 1))
        delay = self.draw.uniform(0, 30)
        with suppress(subprocess.TimeoutExpired):
            jobs[0][0].wait(delay)
        filler = self.disk / "filler"
        if fault in ("worker", "executor", "python"):
            self.shoot(fault)
        elif fault == "disk" and self.small:
            about = os.statvfs(self.disk)
            left = about.f_bavail * about.f_frsize - self.draw.randrange(1_000_000)
            with suppress(OSError):
                filler.write_bytes(b"\0" * max(0, left))
            with suppress(subprocess.TimeoutExpired):
                jobs[0][0].wait(self.draw.uniform(1, 60))
            filler.unlink(missing_ok=True)
        for process, place in jobs:
            self.judge(fault, process, place)
        self.look(fault)
        if fault == "rot":
            self.rot()

    def start(self, number, which):
        """Submit the job; its log is kept."""
        python = {"spark.pyspark.python": sys.executable}
        python["spark.pyspark.driver.python"] = sys.executable
        settings = python | {"--py-files": self.package, "spark.cores.max": "2"}
        settings["spark.scheduler.maxRegisteredResourcesWaitingTime"] = "20s"
        if which or self.draw.random() < 0.3:
            settings["spark.cores.max"] = "1"
        place = f"driver{number}.{which}"
        process = self.cluster.submit(JOB, "--config", self.config, settings=settings, name=place)
        return process, self.root / place

    def judge(self, fault, process, place):
        """Count the end of a job; a refusal is one sentence, and no traceback is seen."""
        try:
            process.wait(900)
        except subprocess.TimeoutExpired:
            process.kill()
            self.wrong.append(f"{place}: {fault}: the job hangs")
            return
        lines = (place / "output.txt").read_text().splitlines()
        try:
            outcome = json.loads(lines[-1])
        except (IndexError, ValueError):
            self.wrong.append(f"{place}: {fault}: no outcome, but {lines[-1:]}")
            return
        self.counts[f"{fault}: exit {outcome['exit']}"] += 1
        if outcome["exit"]:
            said = outcome["error"]
            self.counts[f"  said: {' '.join(said.replace(str(self.root), '').split()[-12:])}"] += 1
            if "\n" in said or len(said) > LONGEST:
                self.wrong.append(f"{place}: {fault}: {said[:300]!r} is not one sentence")
            if fault in ("none", "rot"):
                self.wrong.append(f"{place}: nothing was done to it, and it said {said[:300]!r}")
            if "is damaged" in said:  # as it says: start anew
                self.remove("prepared", "checkpoint")

    def look(self, fault):
        """What is published is whole, and has the bits of the first round."""
        pointer = self.disk / "runs/published.json"
        if not pointer.exists():
            return
        run = json.loads(pointer.read_text())["run_id"]
        bits = model_bits(self.disk / f"runs/run_id={run}/model")
        self.bits = self.bits or bits
        self.counts["published models looked at"] += 1
        if bits != self.bits:
            self.wrong.append(f"after {fault}: run {run} is another model")

    def shoot(self, what):
        """Kill a worker with its executor, an executor, or its Python processes."""
        if what == "worker":
            self.cluster.kill_worker()
            return
        found = self.cluster.executors() if what == "executor" else self.cluster.python_workers()
        for one in sorted(found)[: 1 if what == "executor" else None]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
                self.counts[f"{what}: killed"] += 1

    def flip(self, what):
        """Flip a bit of a file, and remove its checksum; tell if there is such a file."""
        places = [self.disk / what]
        if what == "prepared":
            places = [self.disk / what / side for side in ("by_user", "by_item")]
        files = [file for place in places for file in sorted(place.rglob("*.parquet"))]
        if not files:
            return False
        file = self.draw.choice(files)
        content = bytearray(file.read_bytes())
        content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
        file.write_bytes(content)
        self.counts[f"bit: flipped in {what}"] += 1
        return True

    def rot(self):
        """Flip a bit of the published model: a job that starts from it refuses; then mend it."""
        run = json.loads((self.disk / "runs/published.json").read_text())["run_id"]
        files = sorted((self.disk / f"runs/run_id={run}/model").rglob("*.parquet"))
        file = self.draw.choice(files)
        crc, content = file.with_name(f".{file.name}.crc"), file.read_bytes()
        kept = crc.read_bytes() if crc.exists() else None
        self.flip(file.parent.relative_to(self.disk))
        damaged = [one for one in files if one == file and one.read_bytes() != content]
        command = [sys.executable, JOB, "--config", self.config, "--set", 'start.model="published"']
        done = subprocess.run(
            [*map(str, command), "--set", "factorization.checkpointPath=none"],
            capture_output=True, text=True, check=False, cwd=self.root,
        )  # fmt: skip
        outcome = json.loads(done.stdout.splitlines()[-1])
        self.counts[f"rot: exit {outcome['exit']}"] += 1
        if damaged and outcome["exit"] == 0:
            self.wrong.append(f"a damaged model, {file}, was trained from")
        file.write_bytes(content)
        if kept is not None:
            crc.write_bytes(kept)

    def remove(self, *names):
        for name in names:
            subprocess.run(["rm", "-rf", self.disk / name], check=True)
        self.counts["removed what was damaged"] += 1


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        faults = Faults(Path(root), given.seed)
        try:
            print(f"seed {given.seed}: {faults.run(given.seconds)}")
        finally:
            faults.close()
    return 1 if faults.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
