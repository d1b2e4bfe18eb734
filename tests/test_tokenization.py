from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from polyrank.errors import CheckpointError, InputError, TooLongError
from polyrank.stated import Stated
from polyrank.tokenization import PairTokenizer, Truncation, document_text


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PairTokenizer:
    return PairTokenizer.from_folder(tiny_model)


def words(n: int, first: int = 10) -> str:
    return " ".join(f"w{first + i % 400}" for i in range(n))


def test_a_pair_is_put_into_the_checkpoints_own_template(tokenizer: PairTokenizer) -> None:
    (encoding,) = tokenizer.encode("w10 w11", ["w20"], Truncation(max_length=100))
    assert encoding.ids.tolist() == [0, 10, 11, 2, 2, 20, 2]
    assert encoding.type_split == 7
    assert not encoding.truncated


def test_a_bert_template_gives_the_text_token_type_one() -> None:
    tok = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3, "[UNK]": 4}, "[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.add_special_tokens(["[CLS]", "[SEP]"])
    tok.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    pair = PairTokenizer(tok, Stated(tokenizer={}), where="here")
    (encoding,) = pair.encode("a a", ["b"], Truncation(max_length=16))
    assert encoding.ids.tolist() == [0, 2, 2, 1, 3, 1]
    assert encoding.type_split == 4


def test_a_tokenizer_without_a_pair_template_is_refused() -> None:
    tok = Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))
    with pytest.raises(CheckpointError, match="pair template"):
        PairTokenizer(tok, Stated(tokenizer={}), where="here")


def test_a_missing_or_broken_tokenizer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a tokenizer.json in"):
        PairTokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a tokenizer in"):
        PairTokenizer.from_folder(tmp_path)


def test_no_limit_written_as_a_huge_number_is_none(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    assert PairTokenizer.from_folder(tmp_path).stated.max_length is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    assert PairTokenizer.from_folder(tmp_path).stated.max_length is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    assert PairTokenizer.from_folder(tmp_path).stated.max_length == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_max_length": 128,', "expected JSON in"),
        ("[]", "expected a JSON object"),
        ('{"model_max_length": "64"}', "model_max_length as a number of tokens, got '64'"),
        ('{"model_max_length": 3}', "at least 6 tokens for a pair"),
        ('{"polyrank_window": -1}', "polyrank_window as a number of tokens"),
    ],
)
def test_a_broken_tokenizer_config_is_an_error(
    tiny_model: Path, tmp_path: Path, text: str, said: str
) -> None:
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        PairTokenizer.from_folder(tmp_path)


def bert_tokenizer(folder: Path, **config: object) -> PairTokenizer:
    """A lower-casing BERT tokenizer of a few words, with a tokenizer_config.json."""
    words = ["[CLS]", "[SEP]", "[UNK]", "a", "A", "e", "é", "京", "北", "北京"]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.add_special_tokens(["[CLS]", "[SEP]"])
    tok.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    tok.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return PairTokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ({}, ["a", "e", "北", "京"]),
        ({"do_lower_case": None}, ["a", "e", "北", "京"]),
        ({"do_lower_case": False}, ["A", "é", "北", "京"]),
        ({"strip_accents": False}, ["a", "é", "北", "京"]),
        ({"tokenize_chinese_chars": False}, ["a", "e", "北京"]),
    ],
)
def test_tokenizer_config_has_the_last_word_as_in_transformers(
    tmp_path: Path, config: dict[str, object], read: list[str]
) -> None:
    tokenizer = bert_tokenizer(tmp_path, **config)
    (ids,) = tokenizer.tokenize(["A é 北京"])
    assert tokenizer.decode(ids).split() == read


def test_token_types_are_left_out_where_the_model_is_not_given_them(tmp_path: Path) -> None:
    typed = bert_tokenizer(tmp_path).encode("a", ["e"], Truncation(max_length=16))[0]
    tokenizer = bert_tokenizer(tmp_path, model_input_names=["input_ids", "attention_mask"])
    untyped = tokenizer.encode("a", ["e"], Truncation(max_length=16))[0]
    assert (typed.type_split, untyped.type_split) == (3, 5)


@pytest.mark.parametrize(
    ("name", "typed"), [("TokenizersBackend", False), ("DistilBertTokenizerFast", False),
                        ("BertTokenizer", True), ("PreTrainedTokenizerFast", True)],
)  # fmt: skip
def test_some_tokenizers_tell_no_token_types_unless_told_to(
    tmp_path: Path, name: str, typed: bool
) -> None:
    assert bert_tokenizer(tmp_path, tokenizer_class=name).template.text_is_type_1 == typed
    names = ["input_ids", "token_type_ids"]
    told = bert_tokenizer(tmp_path, tokenizer_class=name, model_input_names=names)
    assert told.template.text_is_type_1


def test_what_sentence_transformers_states_is_done(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    prompts = {"prompts": {"query": "w10 w11 "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    tokenizer = PairTokenizer.from_folder(tmp_path)
    assert tokenizer.limit_of(None, 512) == 32
    limit = Truncation(max_length=32)
    (encoding,) = tokenizer.encode("w12", ["w20"], limit)
    assert encoding.ids.tolist() == [0, 10, 11, 12, 2, 2, 20, 2]
    assert (tokenizer.encode_pairs([("w12", "w20")], limit)[0].ids == encoding.ids).all()
    bert_tokenizer(tmp_path, do_lower_case=False)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    tokenizer = PairTokenizer.from_folder(tmp_path)
    assert tokenizer.decode(tokenizer.tokenize(["A [SEP]"])[0]) == "a [SEP]"


@pytest.mark.parametrize(
    ("bert", "limit"),
    [
        ({}, 64),
        ({"max_seq_length": 128}, 128),
        ({"max_seq_length": 32}, 32),
        ({"max_seq_length": 128, "processing_kwargs": {"text": {"max_length": 16}}}, 16),
        ({"processing_kwargs": None}, 64),
    ],
)
def test_the_limit_of_sentence_transformers_comes_first(
    tiny_model: Path, tmp_path: Path, bert: dict[str, object], limit: int
) -> None:
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(bert))
    assert PairTokenizer.from_folder(tmp_path).limit_of(None, 512) == limit


@pytest.mark.parametrize("chosen", ["nope", ["query"], "number"])
def test_a_default_prompt_that_is_none_is_an_error(
    tiny_model: Path, tmp_path: Path, chosen: object
) -> None:
    shutil.copy(tiny_model / "tokenizer.json", tmp_path)
    prompts = {"prompts": {"query": "Q: ", "number": 5}, "default_prompt_name": chosen}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with pytest.raises(CheckpointError, match=r"default_prompt_name .* there are 'query'"):
        PairTokenizer.from_folder(tmp_path)


def test_ids_that_are_left_out_count_towards_the_vocabulary(tmp_path: Path) -> None:
    bert_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    whole = json.loads(file.read_text())
    for last, moved in ((90, {"北京": 90}), (10, {"北": 10})):
        vocab = whole["model"]["vocab"]
        changed = {**whole, "model": {**whole["model"], "vocab": {**vocab, **moved}}}
        file.write_text(json.dumps(changed))
        assert PairTokenizer.from_folder(tmp_path).vocab_size == last + 1


@given(
    query=st.integers(0, 300),
    text=st.integers(0, 300),
    limit=st.integers(6, 200),
    guaranteed=st.none() | st.integers(1, 250),
)
def test_what_fits_is_whole_and_what_does_not_fills_the_limit(
    query: int, text: int, limit: int, guaranteed: int | None
) -> None:
    rule = Truncation(max_length=limit, max_query_tokens=guaranteed)
    kept_query, kept_text = rule.fit(query, text, special=4)
    room = limit - 4
    assert 0 <= kept_query <= query
    assert 0 <= kept_text <= text
    if query + text <= room:
        assert (kept_query, kept_text) == (query, text)
    else:
        assert kept_query + kept_text == room
        promised = min(limit // 2 if guaranteed is None else guaranteed, room)
        assert kept_query >= min(query, promised)
        if kept_query < query:
            assert kept_query == max(promised, room - text)


def test_the_query_stays_whole_and_the_cut_is_reported(tokenizer: PairTokenizer) -> None:
    (encoding,) = tokenizer.encode(words(5), [words(50)], Truncation(max_length=20))
    assert len(encoding) == 20
    assert encoding.ids[1:6].tolist() == [10, 11, 12, 13, 14]
    assert encoding.ids[-1] == 2
    assert (encoding.query_cut, encoding.text_cut, encoding.tokens_given) == (0, 39, 59)


def test_too_long_can_be_an_error_that_names_the_document(tokenizer: PairTokenizer) -> None:
    rule = Truncation(max_length=20, on_overflow="error")
    with pytest.raises(TooLongError, match=r"got 55, 1 of them the query's, at documents\[1\]"):
        tokenizer.encode("w1", ["w2", words(50)], rule)


def test_truncation_options_are_checked() -> None:
    with pytest.raises(InputError, match="on_overflow"):
        Truncation(max_length=10, on_overflow="window")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_query_tokens"):
        Truncation(max_length=10, max_query_tokens=0)


def test_texts_that_recur_are_tokenised_once(
    tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    whole = tokenizer.tokenize
    monkeypatch.setattr(tokenizer, "tokenize", lambda t: seen.append(len(t)) or whole(t))
    pairs = [("w1", f"w{i}") for i in range(12, 16)]
    encodings = tokenizer.encode_pairs(pairs, Truncation(max_length=16))
    assert seen == [5]
    assert [e.ids.tolist()[4] for e in encodings] == [12, 13, 14, 15]


@pytest.mark.parametrize("text", ["", "\0", "w1\0w2", "\ud7ff", "\U0010ffff", "\u202e\u200f", "  "])
def test_odd_text_is_answered(tokenizer: PairTokenizer, text: str) -> None:
    (encoding,) = tokenizer.encode("w1", [text], Truncation(max_length=64))
    assert len(encoding) >= 5


def test_a_lone_surrogate_is_an_error_with_its_place(tokenizer: PairTokenizer) -> None:
    with pytest.raises(
        InputError, match=r"lone surrogate '\\udc80' at character 2 of documents\[1"
    ):
        tokenizer.encode("w1", ["w2", "w3\udc80"], Truncation(max_length=64))


def test_ten_megabytes_are_read_and_counted(tokenizer: PairTokenizer) -> None:
    text = "w123 " * 2_000_000
    (encoding,) = tokenizer.encode("w1", [text], Truncation(max_length=64))
    assert (len(encoding), encoding.tokens_given) == (64, 2_000_005)
    assert np.all(encoding.ids[4:-1] == 123)


def test_a_title_goes_before_the_text() -> None:
    assert document_text("plain", "here") == "plain"
    assert document_text({"text": "body"}, "here") == "body"
    assert document_text({"text": "body", "title": "head", "id": 7}, "here") == "head body"
    assert document_text({"text": "body", "title": None}, "here") == "body"


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["text"], {"body": "x"}, {"text": None}])
def test_a_document_of_another_kind_is_an_error_with_its_place(wrong: object) -> None:
    with pytest.raises(InputError, match=r"documents\[2\]"):
        document_text(wrong, "documents[2]")  # type: ignore[arg-type]
