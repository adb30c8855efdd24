"""Random faults on a standalone cluster, and a count of their outcomes.

``python -m tests.jobs.faults --seconds 300 --seed 1`` prints a report and ends with status 1 if a
model was published that should not be, or a refusal was not one sentence.  A round is a training
job, or two at once, and one fault at a random moment.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from tests.jobs.cluster import ROOT, Cluster, model_bits
from tests.processes import completed

JOB = ROOT / "jobs/train_factorization.py"
CONFIG = """
ratings.path = "{ratings}"
prepared = {{ path = "{disk}/prepared", user_blocks = 4, item_blocks = 4 }}
output = {{ path = "{disk}/runs", keep = 2 }}
report.write = false
[factorization]
rank = 4
maxIter = 6
tol = 0.0
updates = "executors"
checkpointPath = "{disk}/checkpoint"
checkpointInterval = 1
"""
FAULTS = ("worker", "executor", "python", "driver", "disk", "twice", "bit", "rot")
"""A worker, an executor, its Python or the driver killed; the disk full for a while; a second job;
a bit flipped in what the job will read; one in the published model, which must be refused.
"""
JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # as rounds are short
LONGEST = 600  # characters of a refusal


class Faults:
    """Rounds on one cluster, in one directory; `wrong` has what must never be."""

    def __init__(self, root, seed):
        self.root, self.disk = root, root / "disk"
        self.draw = random.Random(seed)
        self.counts, self.wrong = Counter(), []
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", self.disk]
        self.small = not subprocess.run(mount, check=False, capture_output=True).returncode
        sample = pq.read_table(ROOT / "tests/data/movietweetings/ratings.parquet")
        ratings = root / "ratings.parquet"
        pq.write_table(sample.slice(0, 20_000), ratings)
        self.config = root / "config.toml"
        self.config.write_text(CONFIG.format(ratings=ratings, disk=self.disk))
        self.package = root / "nonconvex.zip"
        with zipfile.ZipFile(self.package, "w") as archive:
            for file in sorted((ROOT / "nonconvex").rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(ROOT))
        self.cluster = Cluster(root, JAVA_TOOL_OPTIONS=JAVA)
        self.bits = self.usual = None  # of the first round: its model, its seconds

    def close(self):
        self.cluster.stop()
        if self.small:
            subprocess.run(["umount", "-l", self.disk], check=False)

    def run(self, seconds):
        """Make a round without a fault, and others until the time is over; return the report."""
        start, number, bag = time.monotonic(), 0, []
        self.round(number, "none")
        self.usual, start = time.monotonic() - start, time.monotonic()
        with suppress(KeyboardInterrupt):  # the report of what was done until then
            while time.monotonic() < start + seconds:
                bag = bag or self.draw.sample(FAULTS, len(FAULTS))
                number += 1
                self.round(number, fault := bag.pop())
                print(f"{number:5d} {fault:9s}{len(self.wrong):3d} wrong", flush=True)
        took = f"{self.usual:.0f} s and {time.monotonic() - start:.0f} s"
        lines = [f"1 + {number} rounds in {took}, {len(self.wrong)} wrong"]
        lines += [f"{count:5d}  {what}" for what, count in sorted(self.counts.items())]
        return "\n".join([*lines, *(f"WRONG: {what}" for what in self.wrong)])

    def round(self, number, fault):
        """Run a job under a fault, look at its end and at what is published, and clear up."""
        self.cluster.restore()
        if fault == "rot":
            self.rot()
            return
        if fault == "bit" and (files := self.readable()):  # none, if it was removed as damaged
            self.flip(self.draw.choice(files))
            self.counts["bit: flipped"] += 1
        jobs = [self.start(number, 0)]
        first = jobs[0][0]
        with suppress(subprocess.TimeoutExpired):
            first.wait(self.draw.uniform(0, self.usual or 900))
        if first.poll() is not None and fault not in ("none", "bit"):
            fault = "none"  # it was faster
        elif fault == "twice":
            jobs.append(self.start(number, 1))
        elif fault in ("worker", "executor", "python", "driver"):
            self.shoot(fault, first)
        elif fault == "disk" and self.small:
            self.fill(first)
        for process, place in jobs:
            self.judge(fault, process, place)
        self.look(fault)

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
        if fault == "driver" and process.returncode in (-signal.SIGKILL, 143):
            self.counts[f"driver: exit {process.returncode}"] += 1
            return
        try:
            outcome = json.loads(lines[-1])
        except (IndexError, ValueError):
            self.wrong.append(f"{place}: {fault}: no outcome, but {lines[-1:]}")
            return
        self.counts[f"{fault}: exit {outcome['exit']}"] += 1
        if outcome["exit"]:
            said = outcome["error"]
            short = re.sub(r"[0-9a-f-]*\d[0-9a-f-]*", "#", said.replace(str(self.root), ""))
            self.counts[f"{fault}: said: {short[:150]}"] += 1
            if "\n" in said or len(said) > LONGEST or "Traceback" in said:
                self.wrong.append(f"{place}: {fault}: {said!r} is not one sentence")
            if fault == "none":
                self.wrong.append(f"{place}: nothing was done to it, and it said {said[:300]!r}")
            if "is damaged" in said:  # as it says: start anew
                for name in ("prepared", "checkpoint"):
                    shutil.rmtree(self.disk / name, ignore_errors=True)
                self.counts["removed what was damaged"] += 1

    def look(self, fault):
        """What is published is whole, and has the bits of the first round."""
        model = self.published()
        bits = model_bits(model)
        self.bits = self.bits or bits
        self.counts["published models looked at"] += 1
        if bits != self.bits:
            self.wrong.append(f"after {fault}: {model} is another model")

    def published(self):
        """The directory of the published model."""
        run = json.loads((self.disk / "runs/published.json").read_text())["run_id"]
        return self.disk / f"runs/run_id={run}/model"

    def shoot(self, what, driver):
        """Kill a worker with its executor, an executor, its Python processes, or the driver."""
        if what == "driver":
            number = self.draw.choice([signal.SIGKILL, signal.SIGTERM])
            os.killpg(driver.pid, number)
            self.counts[f"driver: {number.name}"] += 1
            return
        if what == "worker":
            self.cluster.kill_worker()
            self.counts["worker: killed"] += 1
            return
        look = self.cluster.executors if what == "executor" else self.cluster.python_workers
        while not (found := sorted(look())) and driver.poll() is None:
            time.sleep(0.1)
        for one in found[: 1 if what == "executor" else None]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
                self.counts[f"{what}: killed"] += 1

    def fill(self, job):
        """Fill the disk but for less than a megabyte, and free it after some time."""
        about, filler = os.statvfs(self.disk), self.disk / "filler"
        left = about.f_bavail * about.f_frsize - self.draw.choice([0, 100_000, 1_000_000])
        with suppress(OSError):
            filler.write_bytes(b"\0" * max(0, left))
        self.counts["disk: filled"] += 1
        with suppress(subprocess.TimeoutExpired):
            job.wait(self.draw.uniform(1, 2 * self.usual))
        filler.unlink()
        self.counts["disk: freed"] += 1

    def readable(self):
        """Files that the next job reads: prepared ratings, and a checkpoint if there is one."""
        places = ["prepared/by_user", "prepared/by_item", "checkpoint"]
        return [file for place in places for file in sorted((self.disk / place).rglob("*.parquet"))]

    def flip(self, file):
        """Flip a bit of a file, and remove its checksum."""
        content = bytearray(file.read_bytes())
        content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
        file.write_bytes(content)

    def rot(self):
        """Flip a bit of the published model: a job that starts from it refuses; then mend it."""
        model, kept = self.published(), self.root / "kept"
        shutil.copytree(model, kept)
        self.flip(self.draw.choice(sorted(model.rglob("*.parquet"))))
        command = [sys.executable, JOB, "--config", self.config, "--set", 'start.model="published"']
        command += ["--set", f"factorization.checkpointPath={self.root}/unused"]
        done = completed(*command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        outcome = json.loads(done.stdout.splitlines()[-1])
        self.counts[f"rot: exit {outcome['exit']}: {outcome.get('error', '')[-60:]}"] += 1
        if outcome["exit"] != 3 or "is damaged" not in outcome["error"]:
            self.wrong.append(f"a damaged model, {model}, gave {outcome}")
        shutil.rmtree(model)
        shutil.move(kept, model)


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
