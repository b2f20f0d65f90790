"""Says whether tests/gpu_report.json belongs to the sources at hand, its age, what it skipped.

Usage: python tools/gpu_report_status.py [REPORT]. CI prints this; it informs and does not judge, so
the exit status is 0 unless the report cannot be read.
"""

import datetime
import json
import pathlib
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "python"))
import gpu_report  # noqa: E402


def describe(report, sources_sha256, now):
    """The lines to print for a report read from JSON."""
    if report["sources_sha256"] == sources_sha256:
        yield "belongs to these sources: yes"
    else:
        yield (
            "belongs to these sources: NO; they have changed since "
            f"(report {report['sources_sha256'][:12]}, here {sources_sha256[:12]})"
        )
    if "date" in report:
        yield from describe_run(report, now)
    else:
        yield "NOTE: no run with the paths that the device takes by itself"
    for path, run in report.get("forced_paths", {}).items():
        yield f"path {path}, forced:"
        yield from (f"  {line}" for line in describe_run(run, now))


def describe_run(run, now):
    """The lines of one run: the device's own paths, or a forced one."""
    written = datetime.datetime.fromisoformat(run["date"])
    if run.get("sources_changed_during_run"):
        yield "NOTE: the sources changed while the tests ran"
    yield f"age: {(now - written).days} days ({run['date']})"
    yield (
        f"machine: {run['num_gpus']} x {run['gpu']}, driver {run['driver']}, torch "
        f"{run['torch']}, Python {run['python']}, built with CUDA "
        f"{run['cuda_toolkit_of_grouped_gemm']} for {run.get('architectures_of_grouped_gemm')}"
    )
    selected = {k: v for k, v in run.get("selection", {}).items() if v}
    if selected:
        yield f"NOTE: only a selection ran: {selected}"
    yield (
        f"result: {run['passed']} passed, {run['failed']} failed, "
        f"{run['skipped']} skipped in {run['seconds']} s"
    )
    for failure in run["failures"]:
        yield f"  failed: {failure}"
    for reason, count in run["skip_reasons"].items():
        yield f"  skipped {count}: {reason}"


def main(arguments):
    path = pathlib.Path(arguments[0]) if arguments else REPOSITORY / gpu_report.REPORT
    print(f"GPU report {path.name}")
    try:
        report = json.loads(path.read_text())
        now = datetime.datetime.now(datetime.timezone.utc)
        lines = list(describe(report, gpu_report.source_hash(), now))
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot be read: {type(error).__name__}: {error}")
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
