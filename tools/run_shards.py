"""Runs GoogleTest programs, each cut into shards that run side by side.

    python tools/run_shards.py build/gg_tests build/gg_cuda_tests

On a GPU most of the time goes into the driver's compiler, one core a process: 240 s became 96
with four shards (H200). What a failed shard printed is shown whole.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

SHARDS = min(4, os.cpu_count() or 1)


def start(program: str, shard: int) -> subprocess.Popen:
    environment = {**os.environ, "GTEST_TOTAL_SHARDS": str(SHARDS), "GTEST_SHARD_INDEX": str(shard)}
    return subprocess.Popen(
        [program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run(program: str) -> bool:
    began = time.monotonic()
    print(f"{program}: {SHARDS} shards", flush=True)
    shards = [start(program, index) for index in range(SHARDS)]
    passed = skipped = 0
    good = True
    # Pipes are drained in turn: a shard that waits for its turn loses no output, only time.
    for index, shard in enumerate(shards):
        output, _ = shard.communicate()
        passed += count(r"\[  PASSED  \] (\d+) test", output)
        skipped += count(r"\[  SKIPPED \] (\d+) test", output)
        if shard.returncode != 0:
            good = False
            print(f"--- shard {index} of {program} ended with {shard.returncode}:\n{output}")
    took = time.monotonic() - began
    verdict = "passed" if good else "FAILED"
    print(
        f"{program}: {verdict}; {passed} tests passed, {skipped} skipped, {took:.0f} s", flush=True
    )
    return good and passed > 0


def count(pattern: str, output: str) -> int:
    return sum(int(number) for number in re.findall(pattern, output))


if __name__ == "__main__":
    results = [run(program) for program in sys.argv[1:]]  # all, even after a failure
    sys.exit(0 if all(results) else 1)
