"""The instrument: named cases, one protocol, peers behind adapters, tables from JSON.

``python -m grouped_gemm bench`` starts in ``cli.py``. A run travels through

    cases.py     what a case is: pure data          catalogue.py  all cases, routing.py and
    sizes.py     how rows fall into groups          permute_options.py  more of them
    floors.py    FLOPs, bytes, the physical limit   operands.py  the tensors of a case
    peers/       who is measured, behind adapters   checks.py  refuses a wrong result
    clock.py     how one call is timed              protocol.py  cold and steady, interleaved
    session.py   a whole run within its time        worker.py  a peer in a process of its own
    results.py   the JSON, statistics, compare      table.py, report.py, plots.py  what is shown
    paths.py     the library's plans, printed       profile.py, ncu.py  Nsight Compute on a case

The worker loads this package under another name, beside an old package that has our module's
name; so grouped_gemm itself is imported in ``peers/ours.py``, and in ``cli.py`` and ``paths.py``,
which the worker never loads.
"""
