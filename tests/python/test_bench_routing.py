"""The instrument's routing cases: their names, and a check that refuses what is wrong."""

import pytest
import torch
from grouped_gemm.bench import checks, floors, routing
from grouped_gemm.bench.cases import Case
from grouped_gemm.bench.catalogue import all_cases
from grouped_gemm.bench.operands import Operands
from grouped_gemm.bench.peers import builtin_peers, compiled_peers

CPU = torch.device("cpu")


def route_case(op, tokens=40, topk=3, experts=16):
    name = f"{op}/{tokens}x{topk}x{experts}/fp32"
    return Case(name, op, "fp32", "all", experts, tokens, topk=topk)


@pytest.mark.parametrize("op", ["route", "route_map", "route_bwd"])
@pytest.mark.parametrize("name", ["ours", "torch"])
def test_ours_and_the_formula_pass_the_check(op, name):
    case = route_case(op)
    operands = Operands(CPU).of(case)
    peer = next(p for p in builtin_peers() if p.name == name)
    assert peer.supports(case) is None
    assert checks.complaint(case, operands, peer.build(case, operands)()) is None


@pytest.mark.parametrize("op", ["route", "route_map", "route_bwd"])
@pytest.mark.parametrize("topk", [1, 2, 8])
def test_what_a_compiler_can_fuse_is_the_same_formula(op, topk):
    case = route_case(op, topk=topk)
    operands = Operands(CPU).of(case)
    result = routing.FUSABLE[op](*routing.arguments(case, operands))
    assert checks.complaint(case, operands, result) is None


@pytest.mark.parametrize("formulas", [routing.PLAIN, routing.FUSABLE], ids=["plain", "fusable"])
def test_a_size_is_compiled_once_for_all_tokens_and_never_given_up(formulas, monkeypatch):
    """torch.compile runs a function uncompiled after some recompilations of its code."""
    monkeypatch.setattr(compiled_peers, "COMPILED_AT", 48)
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    peer = compiled_peers.TorchCompiled("compile", formulas, backend)
    torch._dynamo.reset()
    sizes = range(8, 18)
    for tokens in (40, 100):
        for experts in sizes:
            case = route_case("route_bwd", tokens, 1, experts)
            operands = Operands(CPU).of(case)
            assert checks.complaint(case, operands, peer.build(case, operands)()) is None
    forward = route_case("route")
    operands = Operands(CPU).of(forward)
    assert checks.complaint(forward, operands, peer.build(forward, operands)()) is None
    assert len(compiled) == len(sizes) + 1 > torch._dynamo.config.recompile_limit + 1


def test_two_calls_are_another_way_to_the_map_and_measured_where_asked_for():
    case = route_case("route_map")
    operands = Operands(CPU).of(case)
    peer = next(p for p in builtin_peers() if p.name == "two-calls")
    assert peer.asked_for and peer.supports(route_case("route")) is not None
    assert checks.complaint(case, operands, peer.build(case, operands)()) is None


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_a_wrong_weight_id_count_or_map_is_refused(part):
    case = route_case("route_map")
    operands = Operands(CPU).of(case)
    ours = next(p for p in builtin_peers() if p.name == "ours")
    results = list(ours.build(case, operands)())
    results[part] = results[part] + 1
    assert checks.complaint(case, operands, tuple(results)) is not None


def test_a_wrong_gradient_is_refused():
    case = route_case("route_bwd")
    operands = Operands(CPU).of(case)
    ours = next(p for p in builtin_peers() if p.name == "ours")
    assert checks.complaint(case, operands, ours.build(case, operands)() * 1.1) is not None


def test_every_size_of_the_bar_is_a_case_and_one_is_in_the_default_run():
    cases = [case for case in all_cases("cuda") if case.op in ("route", "route_bwd")]
    assert len(cases) == 2 * 4 * 4 * 3
    default = [case.name for case in cases if case.level == "default"]
    assert default == ["route/16384x8x128/fp32", "route_bwd/16384x8x128/fp32"]
    maps = [case.name for case in all_cases("cuda") if case.op == "route_map"]
    assert "route_map/512x8x128/fp32" in maps and "route_map/16384x8x128/fp32" in maps


def test_bytes_are_the_logits_and_what_is_chosen():
    assert floors.bytes_moved(route_case("route")) == 40 * 16 * 4 + 40 * 3 * 8
    assert floors.bytes_moved(route_case("route_map")) == 40 * 16 * 4 + 40 * 3 * 12
    # ids, weights and their gradient read, the logits' gradient written
    assert floors.bytes_moved(route_case("route_bwd")) == 40 * 16 * 4 + 40 * 3 * 12
