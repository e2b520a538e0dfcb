"""Rewards with TRL's signature: `(completions, **columns) -> one float or None per completion`."""

from r1pipe.rewards.accuracy import accuracy_reward, math_equal
from r1pipe.rewards.building import build_rewards, check_reward_terms
from r1pipe.rewards.choice import choice_reward
from r1pipe.rewards.code import code_reward
from r1pipe.rewards.combining import gated, weighted
from r1pipe.rewards.format import format_reward, tag_count_reward
from r1pipe.rewards.general import exact_answer_reward
from r1pipe.rewards.geography import geo_distance_reward
from r1pipe.rewards.language import language_consistency, language_consistency_reward
from r1pipe.rewards.length import length_reward, soft_overlong_penalty
from r1pipe.rewards.maze import maze_path_reward
from r1pipe.rewards.repetition import repetition_penalty
from r1pipe.rewards.reward_model import RewardModel as reward_model_reward
from r1pipe.rewards.sql import sql_reward

__all__ = [
    "accuracy_reward",
    "build_rewards",
    "check_reward_terms",
    "choice_reward",
    "code_reward",
    "exact_answer_reward",
    "format_reward",
    "gated",
    "geo_distance_reward",
    "language_consistency",
    "language_consistency_reward",
    "length_reward",
    "math_equal",
    "maze_path_reward",
    "repetition_penalty",
    "reward_model_reward",
    "soft_overlong_penalty",
    "sql_reward",
    "tag_count_reward",
    "weighted",
]
