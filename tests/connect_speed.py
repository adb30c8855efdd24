"""Seconds of a fit on executors and of MLlib's, in a classic session or one of Spark Connect.

Arguments are ratings, rank and a directory, where the classic session plants ratings for both.
Printed are medians of rounds: of an iteration, by fits of two lengths, and of the longer fit.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median

from nonconvex.benchmark.contenders import mllib_factorization, our_factorization
from nonconvex.benchmark.data import planted_ratings, write_tables
from nonconvex.numerics.synthetic import PlantedRatings
from nonconvex.session import get_session
from tests.conftest import _remote_session

ROUNDS = 3  # after one that warms up; MLlib takes minutes at rank 64, and runs once there
LENGTHS = (2, 6)  # MLlib's plan of more overflows Java's stack

ratings, rank = map(int, sys.argv[1:3])
path, there = f"{Path(sys.argv[3]).resolve()}/{ratings}", "SPARK_REMOTE" in os.environ
settings = {"spark.driver.memory": os.environ.get("DRIVER_MEMORY", "12g")}
if there:
    spark = _remote_session(settings)
else:
    spark = get_session("speed", {"spark.master": "local[2]", **settings})
    law = PlantedRatings.of_size(ratings, None, None, 0)
    write_tables(spark, path, lambda: planted_ratings(spark, law, 0.1), reuse=True)
ours, theirs = our_factorization(spark, rank, {"updates": "executors"}), mllib_factorization
contenders, seconds = [ours, theirs(spark, rank, {})], {}
for number in range(1 + ROUNDS):
    for one in contenders:
        if one is not ours and rank >= 64 and number < ROUNDS:
            continue
        for steps in LENGTHS:
            start = time.perf_counter()
            model = one.fit(f"{path}/part=train", steps)
            seconds.setdefault((one.name, steps), []).append(time.perf_counter() - start)
        seconds[one.name] = one.score(model, f"{path}/part=test")
for one in contenders:
    short, long = (median(seconds[one.name, steps][-ROUNDS:]) for steps in LENGTHS)
    print(
        f"{'Spark Connect' if there else 'classic'}, {one.name}, rank {rank}: iteration "
        f"{(long - short) / (LENGTHS[1] - LENGTHS[0]):.3f} s, fit of {LENGTHS[1]} "
        f"{long:.2f} s, RMSE {seconds[one.name]:.4f}"
    )
spark.stop()
