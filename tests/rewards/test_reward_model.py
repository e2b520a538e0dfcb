"""The preference reward, on a tiny reward model with random weights."""

import pickle

import pytest

from r1pipe.errors import UserError
from r1pipe.rewards.reward_model import RewardModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = transformers.Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_labels=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reward_model")
    transformers.Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


TEXTS = [
    "<answer>a</answer>",
    "<think>so</think><answer>a longer answer than the others here</answer>",
    "<answer>bc</answer>",
]


def test_scores_do_not_depend_on_the_batch(reward_model: str) -> None:
    columns = {"prompts": ["say a", "say more", "say bc"], "domain": ["general"] * 3}
    together = RewardModel(reward_model, batch_size=3)(completions=TEXTS, **columns)
    alone = RewardModel(reward_model, batch_size=1)(completions=TEXTS, **columns)
    assert len(set(together)) == 3
    assert together == pytest.approx(alone, abs=1e-5)


def test_only_the_answer_is_read(reward_model: str) -> None:
    columns = {"prompts": ["q", "q"], "domain": ["general"] * 2}
    completions = ["<think>one</think><answer>a</answer>", "<think>two!</think><answer>a</answer>"]
    answers = RewardModel(reward_model)(completions=completions, **columns)
    whole = RewardModel(reward_model, reads="completion")(completions=completions, **columns)
    assert answers[0] == pytest.approx(answers[1], abs=1e-6)
    assert whole[0] != pytest.approx(whole[1], abs=1e-6)


def test_rows_are_routed_by_domain_and_a_missing_answer_costs(reward_model: str) -> None:
    preference = RewardModel(reward_model, missing=-3.0)
    rewards = preference(
        completions=["<answer>a</answer>", "<answer>a</answer>", "a"],
        prompts=["q"] * 3,
        domain=["reasoning", "general", "general"],
    )
    assert rewards[0] is None
    assert isinstance(rewards[1], float)
    assert rewards[2] == -3.0


def test_no_model_is_loaded_for_rows_of_other_domains() -> None:
    assert RewardModel("/nowhere")(completions=["x"], prompts=["q"]) == [None]


def test_odd_text_and_messages_are_scored(reward_model: str) -> None:
    odd = ["<answer>\ud800\x00</answer>", "<answer>" + "a" * 50_000 + "</answer>"]
    prompts = [[{"role": "user", "content": "q"}]] * 2
    rewards = RewardModel(reward_model, max_length=64)(
        completions=[[{"role": "assistant", "content": text}] for text in odd],
        prompts=prompts,
        domain=["general"] * 2,
    )
    assert all(isinstance(reward, float) for reward in rewards)


def test_a_copy_in_another_process_loads_its_own_model(reward_model: str) -> None:
    preference = RewardModel(reward_model)
    columns = {"prompts": ["q"], "domain": ["general"]}
    first = preference(completions=TEXTS[:1], **columns)
    assert pickle.loads(pickle.dumps(preference))(completions=TEXTS[:1], **columns) == first


def test_under_zero3_the_reward_model_is_not_sharded(reward_model: str) -> None:
    from transformers.integrations import deepspeed

    class Zero3:
        def is_zero3(self) -> bool:
            return True

    config = Zero3()
    deepspeed.set_hf_deepspeed_config(config)
    try:
        (reward,) = RewardModel(reward_model)(TEXTS[:1], prompts=["q"], domain=["general"])
        assert isinstance(reward, float)
        assert deepspeed.is_deepspeed_zero3_enabled(), "the trainer's own setting is back"
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_what_is_no_reward_model_is_a_user_error(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot load a reward model"):
        RewardModel(str(tmp_path))(completions=TEXTS[:1], prompts=["q"], domain=["general"])
    with pytest.raises(UserError, match="at least 1"):
        RewardModel("x", batch_size=0)
