"""The command line: ``python -m grouped_gemm bench [...]``, and its second words.

bench                     measure; options below
bench list                the names of all cases
bench compare A B         regressions of B against A beyond their spread; exit status 1
bench report JSON...      README tables, result pages and plots from JSON alone
bench profile CASE        Nsight Compute on one case, with a summary
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import signal
import sys
import threading

import torch

from . import protocol
from .cases import OPS
from .catalogue import all_cases, select
from .environment import ClockWatch, describe
from .peers import builtin_peers, load_adapters, sort_out, trait
from .results import Results, compare

TIME_LIMITS = {"quick": 50.0, "default": 480.0, "all": None}  # seconds
BUDGETS = {"quick": protocol.QUICK, "default": protocol.DEFAULT, "all": protocol.FULL}


def main(arguments: list[str]) -> int:
    """Runs one command; 2 for a wrong argument, 1 for regressions or refused results."""
    words = {"list": _list, "compare": _compare, "report": _report, "profile": _profile}
    try:
        if arguments and arguments[0] in words:
            return words[arguments[0]](arguments[1:])
        return _run(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "matplotlib"):
            raise
        print(
            f"bench: {error.name} got no module; needs it for tables and plots; "
            "pip install 'grouped_gemm[bench]'",
            file=sys.stderr,
        )
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grouped_gemm bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a few cases, under a minute")
    add("--all", action="store_true", help="every case, without a time limit")
    add("--case", action="append", default=[], metavar="PATTERN", help="cases by name, of any size")
    add("--op", action="append", default=[], metavar="OP", help=f"one of {', '.join(OPS)}")
    add("--peer", action="append", default=[], metavar="NAME", help="only ours and these")
    add("--device", default=None, help="cuda, cuda:1 or cpu; default: the GPU if there is one")
    add("--json", metavar="PATH", help="write the results there")
    add("--against", metavar="PATH", help="compare with earlier results; exit status 1 if slower")
    add("--peers", metavar="DIR", help="a folder of adapters for more peers")
    add("--peer-path", action="append", default=[], metavar="NAME=DIR", help="where a peer lies")
    add("--window", type=float, metavar="SECONDS", help="of steady timing; 0.25")
    add("--limit", type=float, metavar="SECONDS", help="time limit; default 480, --quick 50")
    add("--plain", action="store_true", help="no progress bar and no colours")
    return parser


def _run(arguments: list[str]) -> int:
    from . import table
    from .session import Session

    options = _parser().parse_args(arguments)
    device = pick_device(options.device)
    level = "all" if options.all else "quick" if options.quick else "default"
    cases = select(device.type, level, options.op, options.case)
    peers, absent = _peers(options, device)
    if device.type == "cuda" and level != "all" and not (options.peer or options.case):
        peers = [peer for peer in peers if peer.name != "loop"]
        absent["loop"] = "left out for its time; --all, --peer loop and --case PATTERN have it"
    results = Results(_environment(device), absent=absent)
    budget = protocol.CPU if device.type == "cpu" and level != "all" else BUDGETS[level]
    if options.window is not None:
        budget = budget.of_window(options.window)
    limit = options.limit or TIME_LIMITS[level]
    session = Session(device, peers, budget, results)
    watch = ClockWatch(device)
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` loses no results
    try:
        with table.ProgressBar(options.plain) as report:
            session.run(cases, limit, report)
    except KeyboardInterrupt:
        results.thinned.append("interrupted: the cases after the last row were not measured")
    finally:
        results.environment["clocks"] = watch.stop()
    return _show(results, options)


def pick_device(name: str | None) -> torch.device:
    """The device to measure on, made current."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"bench: --device got {name}; needs a GPU that torch can use; say --device cpu"
            )
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise ValueError(f"bench: --device got {name}; needs cuda or cpu; name one of them")
    return device


def _peers(options, device: torch.device) -> tuple[list, dict[str, str]]:
    folders = {}
    for entry in options.peer_path:
        name, equals, folder = entry.partition("=")
        if not equals or not pathlib.Path(folder).is_dir():
            raise ValueError(f"bench: --peer-path got {entry!r}; needs NAME=FOLDER; name a folder")
        folders[name] = folder
    found = builtin_peers() + (load_adapters(options.peers) if options.peers else [])
    for peer in found:
        peer.folder = folders.pop(peer.name, None)
        if peer.folder and not getattr(peer, "process", False):
            sys.path.append(peer.folder)
    names = [peer.name for peer in found]
    for unknown in [*folders, *(p for p in options.peer if p not in names)]:
        raise ValueError(f"bench: peer got {unknown!r}; needs one of {', '.join(names)}")
    if options.peer:
        found = [p for p in found if p.name == "ours" or p.name in options.peer]
    idle = {p.name: f"--peer {p.name} has it" for p in found if trait(p, "asked_for")}
    if options.peer:
        idle = {}
    found = [p for p in found if p.name not in idle]
    present, absent = sort_out(found, {p.name: p.folder for p in found if p.folder}, device)
    return present, absent | idle


def _environment(device: torch.device) -> dict:
    from .. import _library  # the package under test says what it is

    library = _library.CUDA_LIBRARY if device.type == "cuda" else _library.CPU_LIBRARY
    path = _library.library_path(library)
    facts = {"version": _library.version(), "toolkit": "none", "architectures": "none"}
    if path is not None:
        info = _library.library_info(path)
        facts["library"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        facts |= {"toolkit": info.toolkit or "none", "architectures": info.architectures or "none"}
    return describe(device, pathlib.Path(_library.__file__).parent, facts)


def _show(results: Results, options) -> int:
    from . import table

    console = table.console(options.plain)
    console.print(table.run_table(results))
    for line in table.summary_lines(results):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"{len(results.rows)} cases in {results.seconds:.0f} s")
    if options.json:
        results.write(options.json)
        console.print(f"written: {options.json}", markup=False)
    refused = any(row.timings["ours"].refused for row in results.rows if "ours" in row.timings)
    slower = 0
    if options.against:
        before = Results.read(options.against)
        before.rows = [row for row in before.rows if results.row(row.case.name)]
        slower = _compared(before, results, "ours")
    return 1 if refused or slower else 0


def _list(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m grouped_gemm bench list")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    for case in all_cases(torch.device(options.device).type):
        print(f"{case.level:8s} {case.name}")
    return 0


def _compare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m grouped_gemm bench compare")
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--peer", default="ours", help="whose times")
    parser.add_argument("--relative", action="store_true", help="as ratios to each run's ceilings")
    parser.add_argument("--everything", action="store_true", help="unchanged cells too")
    options = parser.parse_args(arguments)
    before, after = Results.read(options.before), Results.read(options.after)
    lost = _compared(before, after, options.peer, options.relative, options.everything)
    return 1 if lost else 0


def _compared(
    before: Results, after: Results, peer: str, relative: bool = False, everything: bool = False
) -> int:
    """Prints what changed; how many cells became slower or were lost."""
    from . import table

    console = table.console(plain=False)
    machines = [run.environment.get("device_name") for run in (before, after)]
    if machines[0] != machines[1] and not relative:
        console.print("different machines: times as multiples of each one's ceilings")
        relative = True
    for name, run in (("before", before), ("after", after)):
        console.print(f"{name}: {table.provenance(run)}", markup=False, soft_wrap=True)
    for line in table.machine_lines(before, after):
        console.print(line, markup=False, soft_wrap=True)
    changes, problems = compare(before, after, peer, relative)
    console.print(table.compare_table(changes, everything))
    for line in [*(f"lost: {problem}" for problem in problems), *table.change_lines(changes)]:
        console.print(line, markup=False, soft_wrap=True)
    slower = sum(change.verdict == "slower" for change in changes)
    console.print(f"{len(changes)} cells compared, {slower} slower, {len(problems)} lost")
    return slower + len(problems)


def _report(arguments: list[str]) -> int:
    from .report import main as report

    return report(arguments)


def _profile(arguments: list[str]) -> int:
    from .profile import main as profile

    return profile(arguments)
