"""The starter's artifacts: whole, cached, loadable by ordinary means; a failing part says why."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgrpo_ray.config import StarterSection
from pgrpo_ray.data.response import TAGS
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.preflight.models import STARTER_POLICY, model_facts
from pgrpo_ray.starter import artifacts
from pgrpo_ray.starter.artifacts import content_key, ensure_starter

SECTION = StarterSection(seed=5, sft_steps=4, reward_model_steps=3, train_problems=32, heldout_problems=16, threads=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    cache, seen = tmp_path_factory.mktemp("cache"), []
    paths = ensure_starter(SECTION, cache, lambda part, done: seen.append((part, done)))
    return cache, paths, seen


def test_every_artifact_is_there_and_nothing_else_is_left(built):
    cache, paths, seen = built
    assert all((model / "config.json").exists() for model in (paths.policy, paths.proofreader, paths.reward_model))
    assert len(paths.train.read_text().splitlines()) == 32
    assert len(paths.heldout.read_text().splitlines()) == 16
    assert [entry.name for entry in cache.iterdir()] == [f"starter-{content_key(SECTION)}"]
    assert {part for part, _ in seen} == {"problems", "policy", "reward_model"}
    for part in ("problems", "policy", "reward_model"):
        assert (part, 1.0) in seen
    report = json.loads(paths.report.read_text())
    assert {"policy_s", "reward_model_s", "sft_loss", "rm_pair_accuracy", "total_s"} <= report.keys()
    assert 0 <= report["rm_pair_accuracy"]["all"] <= 1


def test_the_second_call_builds_nothing(built, monkeypatch):
    cache, paths, _ = built
    monkeypatch.setattr(artifacts, "_build", lambda *_: pytest.fail("built again"))
    assert ensure_starter(SECTION, cache) == paths
    assert ensure_starter(SECTION.model_copy(update={"threads": 2}), cache) == paths


def test_the_key_follows_the_section():
    assert content_key(SECTION) == content_key(SECTION.model_copy())
    assert content_key(SECTION) != content_key(SECTION.model_copy(update={"seed": 6}))


def test_weights_follow_from_the_seed(built, tmp_path):
    _, paths, _ = built
    again = ensure_starter(SECTION, tmp_path)
    for model in ("policy", "proofreader", "reward_model"):
        first, second = (getattr(one, model) / "model.safetensors" for one in (paths, again))
        assert first.read_bytes() == second.read_bytes()


def test_the_policy_is_an_ordinary_model_folder(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pgrpo_ray.starter.tokenizer import encode_prompts, train_tokenizer

    _, paths, _ = built
    tokenizer = AutoTokenizer.from_pretrained(paths.policy)
    model = AutoModelForCausalLM.from_pretrained(paths.policy)
    assert len(tokenizer) <= model.config.vocab_size
    assert model.config.tie_word_embeddings and model.config.eos_token_id == tokenizer.eos_token_id
    text = "<think>2 * 4 = 8.</think>\n<answer>\ndef f(a):\n    return a</answer>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert all(tokenizer.convert_tokens_to_ids(tag) in ids for tag in TAGS)
    chat = [{"role": "system", "content": "ignored"}, {"role": "user", "content": "add 2 to each, then sort."}]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert rendered == encode_prompts(tokenizer, ["add 2 to each, then sort."])[0]
    # The loader must not replace our pre-tokenizer by one of its own: the same text keeps the same tokens.
    texts = [json.loads(line)["prompt"] for line in paths.train.read_text().splitlines()]
    fresh = train_tokenizer(texts)
    fresh.save_pretrained(paths.policy.parent.parent / "fresh")
    (paths.policy.parent.parent / "fresh" / "config.json").write_text((paths.policy / "config.json").read_text())
    loaded = AutoTokenizer.from_pretrained(paths.policy.parent.parent / "fresh")
    assert loaded(texts)["input_ids"] == fresh(texts)["input_ids"]


def test_the_proofreader_is_a_reward_model_that_preferences_went_on_from(built):
    from pgrpo_ray.reward_model.model import load

    _, paths, _ = built
    before, after = load(paths.proofreader), load(paths.reward_model)
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    moved = [
        (one != other).any() for one, other in zip(before.network.parameters(), after.network.parameters(), strict=True)
    ]
    assert any(moved)


def test_of_two_who_want_it_at_once_one_builds_and_the_other_waits(tmp_path, monkeypatch):
    children = []
    popen = artifacts.subprocess.Popen
    monkeypatch.setattr(artifacts.subprocess, "Popen", lambda *a, **k: children.append(a) or popen(*a, **k))
    section = SECTION.model_copy(update={"seed": 6})
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: ensure_starter(section, tmp_path), range(2))
    assert first == second
    assert len(children) == len(artifacts.PARTS)


def test_a_failing_part_raises_with_its_log_and_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "PARTS", ("nonsense",))
    with pytest.raises(EnvironmentFault, match=r"(?s)'nonsense' failed with exit status 1.*KeyError"):
        ensure_starter(SECTION, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interruption_stops_the_child_and_leaves_no_folder(tmp_path, monkeypatch):
    children = []
    popen = artifacts.subprocess.Popen
    monkeypatch.setattr(artifacts.subprocess, "Popen", lambda *a, **k: children.append(popen(*a, **k)) or children[-1])

    def interrupt(part, done):
        if part == "policy" and done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_starter(SECTION.model_copy(update={"sft_steps": 400}), tmp_path, interrupt)
    assert children and children[0].poll() is not None
    assert not list(tmp_path.iterdir())


def test_more_held_out_problems_than_exist_is_a_config_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("too many")

    monkeypatch.setattr(artifacts.problems, "generate", refuse)
    with pytest.raises(ConfigError, match="too many"):
        ensure_starter(SECTION, tmp_path)


def test_importing_artifacts_stays_light():
    code = "import sys, pgrpo_ray.starter.artifacts; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert artifacts.subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_preflight_knows_the_policy_before_it_is_made(built):
    _, paths, _ = built
    made = model_facts(str(paths.policy), "policy.model", role="causal")
    assert made.max_positions == STARTER_POLICY.max_positions
    assert 0.8 < made.num_parameters / STARTER_POLICY.num_parameters < 1.2
