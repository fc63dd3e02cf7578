"""Which model folders serve as policy, as reward model, and as what a reward model is trained from."""

import pytest
from tiny_qwen3 import TOKENIZER, tiny_config
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from pgrpo_ray.errors import ModelError
from pgrpo_ray.preflight.models import model_facts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A language model and classifiers of one and of three labels."""
    made = {
        "causal": Qwen3ForCausalLM(tiny_config()),
        "one label": Qwen3ForSequenceClassification(tiny_config(num_labels=1)),
        "three labels": Qwen3ForSequenceClassification(tiny_config(num_labels=3)),
    }
    root = tmp_path_factory.mktemp("models")
    for name, network in made.items():
        network.save_pretrained(root / name)
        TOKENIZER.save_pretrained(root / name)
    return root


@pytest.mark.parametrize(
    ("folder", "roles"), [("causal", {"causal", "base"}), ("one label", {"reward", "base"}), ("three labels", {"base"})]
)
def test_a_role_takes_the_models_that_can_play_it(folders, folder, roles):
    """Three labels: `check_base` refuses them with words of its own."""
    taken = set()
    for role in ("causal", "reward", "base"):
        try:
            facts = model_facts(str(folders / folder), "a.key", role=role)
        except ModelError as error:
            assert str(error).startswith("a.key: ")
            continue
        assert facts.num_parameters > 10_000
        taken.add(role)
    assert taken == roles


def test_a_classifier_as_policy_is_refused_by_name(folders):
    with pytest.raises(ModelError, match="is no language model: it is Qwen3ForSequenceClassification"):
        model_facts(str(folders / "one label"), "policy.model", role="causal")


def test_a_language_model_as_reward_model_is_refused_by_name(folders):
    with pytest.raises(ModelError, match="is no reward model: it is Qwen3ForCausalLM"):
        model_facts(str(folders / "causal"), "reward_model.model", role="reward")
