"""The largest micro-batch is found exactly, with few compilations."""

from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.plan.fit import largest


@given(
    base=st.integers(0, 10**9),
    per_row=st.integers(1, 10**9),
    bumps=st.lists(st.integers(0, 10**8), min_size=1, max_size=5),
    usable=st.integers(10**6, 10**11),
    first=st.integers(1, 40),
    refuses=st.booleans(),
)
def test_the_boundary_is_exact(
    base: int, per_row: int, bumps: list[int], usable: int, first: int, refuses: bool
) -> None:
    """Memory need not be linear, only rise; the compiler may refuse to say how much is too much."""
    tried: list[int] = []

    def bytes_of(n: int) -> int:
        return base + per_row * n + sum(bumps[i % len(bumps)] for i in range(n))

    def needs(n: int) -> int | None:
        tried.append(n)
        found = bytes_of(n)
        return None if refuses and found > usable else found

    n = largest(needs, usable, first, most=500)
    assert n == 0 or bytes_of(n) <= usable
    assert n == 500 or bytes_of(n + 1) > usable
    assert len(tried) == len(set(tried))


def test_nearly_linear_memory_takes_few_tries() -> None:
    tried: list[int] = []

    def needs(n: int) -> int | None:
        tried.append(n)
        found = 4_000_000_000 + 1_000_000_000 * n + 200_000_000 * (n % 3)
        return found if found < 102_000_000_000 else None

    assert largest(needs, 102_000_000_000) == 97
    assert len(tried) <= 7
