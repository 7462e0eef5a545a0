"""A record gives back what was encoded, and nothing else is taken for one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.chat import build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.data.record import StoredTree, decode, encode

number = st.floats(allow_nan=False, allow_infinity=False)
sequences = st.lists(
    st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=5
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
stored_trees = sequences.flatmap(
    lambda s: st.builds(
        StoredTree,
        st.builds(build_tree, st.just(s), st.sampled_from([None, 0]), st.integers(0, 99)),
        st.lists(
            st.builds(Preference, st.integers(0, len(s) - 1), st.integers(0, len(s) - 1), number, number, number),
            max_size=4,
        ).map(tuple),
        text,
        text,
    )
)


def same(a: StoredTree, b: StoredTree) -> bool:
    arrays = ["tokens", "end", "positions", "reward_index", "leaf"]
    left, right = a.tree, b.tree
    return (
        all(np.array_equal(getattr(left, n), getattr(right, n)) for n in arrays)
        and all(getattr(right, n).dtype == np.int32 for n in arrays)
        and (left.conversation_tokens, left.truncated) == (right.conversation_tokens, right.truncated)
        and (a.preferences, a.id, a.category) == (b.preferences, b.id, b.category)
    )


@given(stored_trees)
def test_a_record_gives_back_what_was_encoded(stored: StoredTree) -> None:
    assert same(stored, decode(encode(stored)))


@given(stored_trees, st.data())
def test_cut_or_foreign_records_are_refused(stored: StoredTree, data: st.DataObject) -> None:
    record = encode(stored)
    for bad in (record[: data.draw(st.integers(0, len(record) - 1))], record + b"x", b"JUNK" + record[4:]):
        with pytest.raises(ValueError):
            decode(bad)
