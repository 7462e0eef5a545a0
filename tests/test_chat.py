"""Chats and trees: real tokenizers, Hugging Face's pooling rule, and the one integer per token that masks."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skyrm_jax.chat import Chat, OverLong, Tree, build_tree, fit, pooled_index
from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import RecordError, UserError

PAD = 0
sequence = st.lists(st.integers(0, 2), min_size=1, max_size=6)
# Few different tokens and a common beginning, so that prefixes, equal sequences and pads at the end are frequent.
sequences = st.tuples(st.lists(st.integers(0, 2), max_size=5), st.lists(sequence, min_size=1, max_size=6)).map(
    lambda drawn: [[*drawn[0], *rest] for rest in drawn[1]]
)


def walk(tree: Tree, token: int) -> list[int]:
    """The tokens that `token` attends to, found by the rule alone."""
    return [k for k in range(token + 1) if token < tree.end[k]]


def read_back(tree: Tree) -> set[tuple[int, ...]]:
    """All conversations a tree holds: every token's path is one, or the beginning of one."""
    return {tuple(tree.tokens[walk(tree, token)].tolist()) for token in range(len(tree.tokens))}


@given(sequences)
def test_a_tree_holds_its_sequences_and_nothing_else(drawn: list[list[int]]) -> None:
    tree = build_tree(drawn, PAD)
    assert read_back(tree) == {tuple(s[:n]) for s in drawn for n in range(1, len(s) + 1)}
    for token in range(len(tree.tokens)):
        assert tree.positions[token] == len(walk(tree, token)) - 1
    assert tree.conversation_tokens == sum(map(len, drawn))
    assert tree.longest == max(map(len, drawn))
    for array in (tree.tokens, tree.end, tree.positions, tree.reward_index, tree.leaf):
        assert array.dtype == np.int32


@given(sequences, st.sampled_from([None, PAD]))
def test_every_response_has_the_leaf_whose_path_is_its_pooled_beginning(
    drawn: list[list[int]], pad: int | None
) -> None:
    tree = build_tree(drawn, pad)
    for s, leaf in zip(drawn, tree.leaf, strict=True):
        pooled = pooled_index(np.array(s), pad)
        path = walk(tree, int(tree.reward_index[leaf]))
        assert tree.tokens[path].tolist() == s[: pooled + 1]
        assert tree.positions[path].tolist() == list(range(pooled + 1))


@given(sequences)
def test_equal_sequences_are_one_leaf_and_what_all_share_stands_once(drawn: list[list[int]]) -> None:
    tree = build_tree(drawn, PAD)
    different = {tuple(s) for s in drawn}
    assert len(tree.reward_index) == len(different)
    assert len({(tuple(s), int(leaf)) for s, leaf in zip(drawn, tree.leaf, strict=True)}) == len(different)
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*different, strict=False))))
    assert len(tree.tokens) == shared + sum(len(s) - shared for s in different)
    assert (tree.end[:shared] == len(tree.tokens)).all()


def test_the_layout_is_the_designs() -> None:
    tree = build_tree([[9, 9, 9, 9, 1, 1, 1], [9, 9, 9, 9, 2, 2, 2, 2]], None)
    assert tree.tokens.tolist() == [9, 9, 9, 9, 1, 1, 1, 2, 2, 2, 2]
    assert tree.end.tolist() == [11] * 4 + [7] * 3 + [11] * 4
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7]
    assert tree.reward_index.tolist() == [6, 10]


def test_a_response_that_is_the_prefix_of_another_has_its_reward_in_the_shared_part() -> None:
    tree = build_tree([[5, 6, 7], [5, 6], [5, 6, 8], [5, 6]], None)
    assert tree.tokens.tolist() == [5, 6, 7, 8]
    assert tree.reward_index.tolist() == [2, 1, 3]
    assert tree.leaf.tolist() == [0, 1, 2, 1]


def test_pads_inside_the_text_are_compared_by_id() -> None:
    # The pooled token may lie in the shared part though the conversation goes on, and be the same for two leaves.
    tree = build_tree([[5, 6, PAD], [5, 6, PAD, PAD], [5, 6, PAD, 7]], PAD)
    assert tree.reward_index.tolist() == [1, 1, 4]
    assert build_tree([[PAD, PAD]], PAD).reward_index.tolist() == [0]


def test_no_sequence_and_empty_ones_are_refused() -> None:
    for bad in ([], [[]], [[1], []]):
        with pytest.raises(ValueError, match="at least one"):
            build_tree(bad, None)


@given(sequence.flatmap(lambda s: st.tuples(st.just(s), st.integers(0, 3))))
def test_pooling_is_hugging_faces(drawn: tuple[list[int], int]) -> None:
    """The expression of GenericForSequenceClassification.forward, on the sequence padded as a batch would be."""
    ids = np.array([*drawn[0], *[PAD] * drawn[1]])
    expected = (np.arange(len(ids)) * (ids != PAD)).argmax(-1)
    assert pooled_index(np.array(drawn[0]), PAD) == expected


def test_pooling_is_what_transformers_computes() -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    config = Qwen3Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        num_labels=1,
        pad_token_id=3,
    )
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.model.embed_tokens.weight)  # transformers starts the pad's as zero
    for ids in ([1, 3, 2, 3, 3], [3, 1], [1, 2], [4, 3], [1, 3, 3, 2, 3]):
        with torch.no_grad():
            batch = torch.tensor([ids])
            everywhere = model.score(model.model(batch).last_hidden_state)[0, :, 0]
            reward = model(batch).logits[0, 0]
        assert reward == everywhere[pooled_index(np.array(ids), 3)]
        assert len(set(everywhere.tolist())) == len(ids)


class TestFit:
    def test_short_ones_are_left_alone(self) -> None:
        assert fit([[1, 2], [1, 2, 3]], 3, "drop", 0) == ([[1, 2], [1, 2, 3]], 0)
        assert fit([[1, 2]], None, "drop", 0) == ([[1, 2]], 0)

    def test_drop(self) -> None:
        with pytest.raises(OverLong, match="4 tokens, at most 3"):
            fit([[1], [1, 2, 3, 4]], 3, "drop", 0)

    def test_truncate_left_cuts_the_same_shared_tokens_everywhere_but_bos(self) -> None:
        drawn = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6, 7, 8]]
        assert fit(drawn, 5, "truncate_left", 1) == ([[0, 3, 4, 5], [0, 3, 6, 7, 8]], 2)
        assert fit(drawn, 4, "truncate_left", 1) == ([[0, 4, 5], [0, 6, 7, 8]], 3)
        with pytest.raises(OverLong):
            fit(drawn, 3, "truncate_left", 1)

    def test_truncate_right_cuts_each_alone(self) -> None:
        assert fit([[1, 2], [1, 3, 4, 5]], 2, "truncate_right", 1) == ([[1, 2], [1, 3]], 2)


def comparison(*responses: str) -> Comparison:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Why is 7 > 3? 你好 "}]
    return Comparison.of(prompt, list(responses))


RESPONSES = ("Because.", "Because. It is", "", "Because.")


def conversations() -> list[Sequence]:
    return [comparison(*RESPONSES).conversation(k) for k in range(len(RESPONSES))]


@pytest.fixture(scope="module")
def qwen3(shared: Path) -> Chat:
    return Chat.load(shared / "tokenizers/qwen3", 151643)


@pytest.fixture(scope="module")
def llama3(shared: Path) -> Chat:
    return Chat.load(shared / "tokenizers/llama3_1")


@pytest.mark.parametrize("name", ["qwen3", "llama3"])
def test_ids_are_those_of_the_published_way_of_scoring(name: str, request: pytest.FixtureRequest) -> None:
    """The Skywork README: render the template, take off its BOS, let the tokenizer add its own."""
    chat: Chat = request.getfixturevalue(name)
    tokenizer = chat.tokenizer
    expected = []
    for conversation in conversations():
        plain = [{"role": m.role, "content": m.content} for m in conversation]
        text = tokenizer.apply_chat_template(plain, tokenize=False)
        assert chat.render(conversation) == text
        if tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token):
            text = text[len(tokenizer.bos_token) :]
        expected.append(tokenizer(text)["input_ids"])
    assert chat.encode(conversations()) == expected


SCRAPS = [
    "<|im_start|>",
    "<|start_header_id|>",
    "<|im_",
    "<|",
    "start|>",
    "|>",
    "<think>",
    "</think>",
    "assistant",
    "a",
    "é",
    "é",
    "'s",
    "12",
]
scraps = st.lists(st.sampled_from([*SCRAPS, " ", "\n"]), max_size=8).map("".join)


@pytest.mark.parametrize("name", ["qwen3", "llama3"])
@given(data=st.data())
def test_cutting_the_text_before_answers_changes_no_id(
    name: str, request: pytest.FixtureRequest, data: st.DataObject
) -> None:
    chat: Chat = request.getfixturevalue(name)
    prompt = [{"role": "user", "content": data.draw(scraps)}]
    drawn = Comparison.of(prompt, data.draw(st.lists(scraps, min_size=1, max_size=3)))
    conversations = [drawn.conversation(k) for k in range(len(drawn.responses))]
    backend = chat.tokenizer.backend_tokenizer
    texts = [chat.render(conversation) for conversation in conversations]
    assert all(len(chat._parts(text)) == 2 and "".join(chat._parts(text)) == text for text in texts)
    assert chat.encode(conversations) == [backend.encode(text, add_special_tokens=False).ids for text in texts]


def added(**facts: bool) -> list[AddedToken]:
    return [AddedToken("[A]", **({"special": True, "normalized": False} | facts))]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (added(), "[A]"),
        (added(special=False), None),
        (added(normalized=True), None),
        (added(single_word=True), None),
        (added(lstrip=True), None),
        ([*added(), AddedToken("x[", special=True)], None),  # in "x[A]" it is found first, and then no "[A]"
        ([*added(), AddedToken("A]x", special=True)], "[A]"),
    ],
)
def test_text_is_cut_only_before_tokens_that_nothing_reaches_across(
    tmp_path: Path, tokens: list[AddedToken], expected: str | None
) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "x": 2}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_tokens(tokens)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    template = tmp_path / "template"
    template.write_text("{% for m in messages %}{{ m.content }}{{ '[A]' if not loop.last }}{% endfor %}")
    chat = Chat.load(tmp_path, template=str(template))
    assert chat._answer_token == expected
    conversation = Comparison.of("a x", ["a"]).conversation(0)
    assert chat.encode([conversation]) == [words.encode("a x[A]a").ids]


def test_qwen3_is_scored_at_the_newline_and_has_no_bos(qwen3: Chat) -> None:
    tree = qwen3.tree(comparison(*RESPONSES))
    assert qwen3.bos is None
    assert qwen3.tokenizer.convert_ids_to_tokens(tree.tokens[tree.reward_index].tolist()) == ["Ċ"] * 3
    assert "<think>\n\n</think>\n\nBecause. It is<|im_end|>\n" in qwen3.render(conversations()[1])
    assert tree.leaf.tolist() == [0, 1, 2, 0]


def test_llama_is_scored_at_eot_and_has_exactly_one_bos(llama3: Chat) -> None:
    tree = llama3.tree(comparison(*RESPONSES))
    assert llama3.tokenizer.convert_ids_to_tokens(tree.tokens[tree.reward_index].tolist()) == ["<|eot_id|>"] * 3
    assert llama3.bos == 128000
    assert tree.tokens.tolist().count(128000) == 1
    assert tree.tokens[0] == 128000


def test_a_template_that_writes_no_bos_gets_the_tokenizers(shared: Path) -> None:
    chat = Chat.load(shared / "tokenizers/llama3_1", template="plain")
    assert "<|begin_of_text|>" not in chat.render(conversations()[0])
    for ids in chat.encode(conversations()):
        assert (ids[0], ids.count(128000)) == (128000, 1)


def test_a_second_bos_is_an_error_of_its_record_alone(llama3: Chat) -> None:
    trees = llama3.trees([comparison("a"), comparison("a", "b<|begin_of_text|>"), comparison("b")])
    assert [isinstance(tree, Tree) for tree in trees] == [True, False, True]
    with pytest.raises(RecordError, match="BOS"):
        llama3.tree(comparison("b<|begin_of_text|>"))


def test_trees_reports_over_long_comparisons_in_place(llama3: Chat) -> None:
    trees = llama3.trees([comparison("a"), comparison("a " * 50, "b")], 40, "truncate_left")
    assert isinstance(trees[0], Tree)
    assert isinstance(trees[1], OverLong)
    prompt = Comparison.of("x " * 100, ["a", "b"])
    tree = llama3.tree(prompt, 40, "truncate_left")
    assert tree.longest == 40
    assert tree.tokens[0] == llama3.bos
    assert tree.truncated == llama3.tree(prompt).longest - 40


def test_the_clock_is_not_read(tmp_path: Path, byte_tokenizer: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ date_string if date_string is defined else strftime_now('%d') }} {{ messages[0].content }}")
    chat = Chat.load(byte_tokenizer, template=str(template))
    assert chat.render(comparison("a").prompt) == "26 Jul 2024 Be brief."


def test_a_template_that_refuses_a_conversation_spoils_that_one_only(tmp_path: Path, byte_tokenizer: Path) -> None:
    template = tmp_path / "t.jinja"
    refuse = "{{ raise_exception('no') if m.role == 'tool' else 'a' }}"
    template.write_text(f"{{% for m in messages %}}{refuse}{{% endfor %}}")
    chat = Chat.load(byte_tokenizer, template=str(template))
    bad = Comparison.of([{"role": "user", "content": "q"}, {"role": "tool", "content": "t"}], ["a"])
    trees = chat.trees([comparison("a"), bad, comparison("b")])
    assert [type(tree) for tree in trees] == [Tree, RecordError, Tree]
    assert "TemplateError: no)" in str(trees[1])


def test_hashes_tell_tokenizers_and_templates_apart(qwen3: Chat, llama3: Chat, shared: Path) -> None:
    plain = Chat.load(shared / "tokenizers/llama3_1", template="plain")
    assert len({chat.template_hash for chat in (qwen3, llama3, plain)}) == 3
    assert plain.tokenizer_hash == llama3.tokenizer_hash != qwen3.tokenizer_hash


def test_a_tokenizer_without_a_template_needs_one_named(shared: Path) -> None:
    folder = shared / "models/stories260k"
    with pytest.raises(UserError, match=r"no chat template.*chatml, plain"):
        Chat.load(folder)
    chat = Chat.load(folder, 0, "plain")
    assert chat.render(conversations()[0]).endswith("? 你好 \n\nAssistant: Because.</s>")
    ids = chat.encode(conversations())[0]
    assert (ids[0], ids[-1], ids.count(1)) == (1, 2, 1)


@pytest.fixture
def chatml(tmp_path: Path) -> Path:
    """A tokenizer whose BOS is ChatML's turn marker, as SmolLM2's is."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "user": 3, "a": 4}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    words.enable_truncation(3)
    words.enable_padding()
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    ).save_pretrained(tmp_path)
    return tmp_path


def test_a_bos_that_marks_turns_is_no_bos_and_nothing_is_cut_or_padded(chatml: Path) -> None:
    chat = Chat.load(chatml, template="chatml")
    assert chat.bos is None
    assert chat.encode([Comparison.of("a", ["a a"]).conversation(0)]) == [[1, 3, 4, 2, 1, 0, 4, 4, 2]]


@pytest.mark.parametrize("template", ["no/such/file", "{% if %}"])
def test_a_bad_template_is_named(byte_tokenizer: Path, tmp_path: Path, template: str) -> None:
    if template.startswith("{"):
        (tmp_path / "bad.jinja").write_text(template)
        template = str(tmp_path / "bad.jinja")
    with pytest.raises(UserError, match="template"):
        Chat.load(byte_tokenizer, template=template)


def test_a_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder.*tokenizer\.json"):
        Chat.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"no tokenizer\.json in that folder"):
        Chat.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="give a folder"):
        Chat.load(tmp_path)
