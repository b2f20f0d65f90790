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
    written = datetime.datetime.fromisoformat(report["date"])
    if report["sources_sha256"] == sources_sha256:
        yield "belongs to these sources: yes"
    else:
        yield (
            "belongs to these sources: NO; they have changed since "
            f"(report {report['sources_sha256'][:12]}, here {sources_sha256[:12]})"
        )
    if report.get("sources_changed_during_run"):
        yield "NOTE: the sources changed while the tests ran"
    yield f"age: {(now - written).days} days ({report['date']})"
    yield (
        f"machine: {report['num_gpus']} x {report['gpu']}, driver {report['driver']}, torch "
        f"{report['torch']}, Python {report['python']}, built with CUDA "
        f"{report['cuda_toolkit_of_grouped_gemm']}"
    )
    selected = {k: v for k, v in report.get("selection", {}).items() if v}
    if selected:
        yield f"NOTE: only a selection ran: {selected}"
    yield (
        f"result: {report['passed']} passed, {report['failed']} failed, "
        f"{report['skipped']} skipped in {report['seconds']} s"
    )
    for failure in report["failures"]:
        yield f"  failed: {failure}"
    for reason, count in report["skip_reasons"].items():
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
