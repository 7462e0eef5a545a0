"""Collectives read from HLO: loops, asynchronous chains of fusions, reduce-scatters in disguise."""

from skyrm_jax.plan.collectives import Collective, collectives
from skyrm_jax.plan.plan import Moved, moved

HLO = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%start (p: bf16[16,8]) -> bf16[64,8] {
  %p = bf16[16,8]{1,0} parameter(0)
  ROOT %gather.1 = bf16[64,8]{1,0} all-gather(%p), channel_id=5, dimensions={0}
}

%finish (p.1: bf16[16,8]) -> bf16[64,8] {
  %p.1 = bf16[16,8]{1,0} parameter(0)
  %gather.2 = bf16[64,8]{1,0} all-gather(%p.1), channel_id=5, dimensions={0}
  ROOT %done = bf16[64,8]{1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.clone (p.2: f32[64,8]) -> f32[16,8] {
  %p.2 = f32[64,8]{1,0} parameter(0)
  %reduced = f32[64,8]{1,0} all-reduce(%p.2), channel_id=7, to_apply=%add
  ROOT %slice = f32[16,8]{1,0} dynamic-slice(%reduced), dynamic_slice_sizes={16,8}
}

%condition (state: (s32[], bf16[16,8])) -> pred[] {
  %state = (s32[], bf16[16,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %layers = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %layers), direction=LT
}

%body (state.1: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %state.1 = (s32[], bf16[16,8]{1,0}) parameter(0)
  %w = bf16[16,8]{1,0} get-tuple-element(%state.1), index=1
  %begun = bf16[64,8]{1,0} fusion(%w), kind=kLoop, calls=%start
  %ended = bf16[64,8]{1,0} fusion(%w), kind=kLoop, calls=%finish
  %dw = f32[64,8]{1,0} convert(%ended)
  %shard = f32[16,8]{1,0} fusion(%dw), kind=kCustom, calls=%all-reduce-scatter.clone
  %half = f32[32,8]{1,0} reduce-scatter(%dw), channel_id=1, dimensions={0}, to_apply=%add
  %quarter = f32[16,8]{1,0} reduce-scatter(%half), channel_id=1, dimensions={0}, to_apply=%add
  ROOT %next = (s32[], bf16[16,8]{1,0}) tuple(%i.1, %w)
}

ENTRY %main (x: bf16[16,8]) -> f32[8] {
  %x = bf16[16,8]{1,0} parameter(0)
  %y = f32[8]{0} constant({...})
  %loop = (s32[], bf16[16,8]{1,0}) while(%init), condition=%condition, body=%body
  %begin = (f32[8]{0}, f32[8]{0}) all-reduce-start(%y), channel_id=9, to_apply=%add
  %work = f32[8]{0} fusion(%y), kind=kLoop, calls=%add
  ROOT %end = f32[8]{0} all-reduce-done(%begin)
}
"""


def test_what_moves() -> None:
    assert sorted(collectives(HLO), key=lambda c: (c.kind, -c.bytes)) == [
        Collective("all-gather", "bf16", 1024, 3, True),
        Collective("all-reduce", "f32", 32, 1, True),
        Collective("reduce-scatter", "f32", 2048, 3, False),
        Collective("reduce-scatter", "f32", 2048, 3, False),
        Collective("reduce-scatter", "f32", 1024, 3, False),
    ]


def test_a_start_with_nothing_to_compute_before_its_end_waits_and_gives_back_its_operand_too() -> None:
    hlo = """\
ENTRY %main (x: bf16[16,8]) -> bf16[64,8] {
  %x = bf16[16,8]{1,0} parameter(0)
  %begin = (bf16[16,8]{1,0}, bf16[64,8]{1,0}) all-gather-start(%x), channel_id=1, dimensions={0}
  ROOT %end = bf16[64,8]{1,0} all-gather-done(%begin)
}
"""
    assert collectives(hlo) == [Collective("all-gather", "bf16", 1024, 1, False)]


def test_what_the_compiler_knows_of_a_loop_counts() -> None:
    """GPUs' loops end by other constants too; their compiler writes the count down."""
    known = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    gather = next(c for c in collectives(HLO.replace("body=%body", known)) if c.kind == "all-gather")
    assert gather.times == 5


def test_the_sums_by_kind() -> None:
    assert moved(collectives(HLO)) == [
        Moved("reduce-scatter", 9, 3 * (2048 + 2048 + 1024), 0.0),
        Moved("all-gather", 3, 3072, 1.0),
        Moved("all-reduce", 1, 32, 1.0),
    ]
