"""Tokenizers of model folders: words to tokens and back, and folders that have none."""

import json
import shutil

import pytest

from tests.tiny import tiny_model
from tpo_dist.errors import UsageError
from tpo_dist.policies.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change(path, **fields):
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content.pop(name, None) if value is None else content.update({name: value})
    path.write_text(json.dumps(content))


def test_what_a_folder_says_of_itself(folder):
    loaded = load_tokenizer(str(folder))
    assert (loaded.vocab_size, loaded.context, loaded.has_template) == (272, 1024, True)
    assert loaded.end_tokens == (258,)
    assert loaded.decode(loaded.tokenizer("grün 3+4").input_ids) == "grün 3+4"


def test_the_end_token_is_no_text_and_others_are_shown(folder):
    loaded = load_tokenizer(str(folder))
    word = loaded.tokenizer("ab").input_ids
    assert loaded.decode([*word, 258]) == "ab"
    assert loaded.decode([*word, 258, 258]) == "ab<|im_end|>"
    assert loaded.decode([258, *word]) == "<|im_end|>ab"
    assert loaded.decode([256, *word]) == "<|endoftext|>ab"
    assert loaded.decode([258]) == loaded.decode([]) == ""


def test_tokens_that_are_no_text_do_not_vanish(folder):
    """Digits that such a token stands between are no number."""
    loaded = load_tokenizer(str(folder))
    one, eight = loaded.tokenizer("18").input_ids
    assert loaded.decode([one, 270, eight]) == "1\ufffd8"
    assert loaded.decode([one, 259, 271, eight]) == "1\ufffd\ufffd8"
    half = loaded.tokenizer("ü").input_ids[:1]
    assert loaded.decode([one, *half, eight]) == "1\ufffd8"


def test_lengths_of_texts_without_a_template(folder):
    assert load_tokenizer(str(folder)).lengths(["", "abc", "ü"]) == [0, 3, 2]
    assert load_tokenizer(str(folder)).lengths([]) == []


def test_every_end_token_that_the_folder_names_ends_a_text(copy):
    change(copy / "generation_config.json", eos_token_id=[258, 256])
    assert load_tokenizer(str(copy)).end_tokens == (258, 256)


def test_without_generation_settings_the_configuration_s_count(copy):
    (copy / "generation_config.json").unlink()
    change(copy / "config.json", eos_token_id=257)
    assert load_tokenizer(str(copy)).end_tokens == (258, 257)


def without_tokenizer(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()


def without_end(copy):
    (copy / "generation_config.json").unlink()
    change(copy / "config.json", eos_token_id=None)
    change(copy / "tokenizer_config.json", eos_token=None)


DAMAGES = {
    "no tokenizer": (without_tokenizer, "this folder has a model and no tokenizer"),
    "no model": (lambda copy: (copy / "config.json").unlink(), "has no config.json, so it holds no model"),
    "no end": (without_end, "names a token that ends a text"),
    "a small model": (lambda copy: change(copy / "config.json", vocab_size=9), "the model embeds 9"),
    "torn": (lambda copy: (copy / "tokenizer.json").write_text("{"), "its tokenizer cannot be loaded"),
    "unknown model": (lambda copy: change(copy / "config.json", model_type="x"), "its configuration cannot be"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_folder_that_is_not_whole_is_refused(damage, words, copy):
    damage(copy)
    with pytest.raises(UsageError) as error:
        load_tokenizer(str(copy))
    assert words in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "nowhere", "~/nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(path):
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match="there is no such folder"):
        load_tokenizer(path)


def test_a_template_that_refuses_a_prompt_is_named(copy):
    template = "{{ raise_exception('no system prompts') if messages[0]['role'] == 'system' }}"
    (copy / "chat_template.jinja").write_text(template)
    loaded = load_tokenizer(str(copy))
    with pytest.raises(UsageError, match="refuses the prompt .*no system prompts"):
        loaded.encode("hello", "be brief")


def test_options_reach_the_template(copy):
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{{ '!' if enable_thinking }}")
    loaded = load_tokenizer(str(copy))
    assert loaded.decode(loaded.encode("a", options={"enable_thinking": True})) == "a!"
    assert loaded.decode(loaded.encode("a")) == "a"


def test_without_a_template_prompts_are_plain(copy):
    (copy / "chat_template.jinja").unlink()
    change(copy / "tokenizer_config.json", chat_template=None)
    loaded = load_tokenizer(str(copy))
    assert not loaded.has_template
    assert loaded.decode(loaded.encode("a", "b")) == "b\n\na"
