"""DeepSeek-V3's architecture, trainable: MLA, DeepSeekMoE with its balancing, and MTP.

Importing the package makes `AutoConfig` and `AutoModelForCausalLM` read checkpoints of model type
`deepseek_v3` with these classes. The type stays the public one, because stock transformers, vLLM,
TRL and PEFT all decide by it what a checkpoint is; what these classes save, those load.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from r1pipe.models.deepseek.auxiliary import AuxiliaryDistillation
from r1pipe.models.deepseek.balancing import ExpertBalancing, update_biases
from r1pipe.models.deepseek.checkpoint_fp8 import save_fp8_checkpoint
from r1pipe.models.deepseek.configuration import DeepseekConfig
from r1pipe.models.deepseek.describing import Description, describe
from r1pipe.models.deepseek.modeling import DeepseekForCausalLM, DeepseekModel

AutoConfig.register("deepseek_v3", DeepseekConfig, exist_ok=True)
AutoModelForCausalLM.register(DeepseekConfig, DeepseekForCausalLM, exist_ok=True)

__all__ = [
    "AuxiliaryDistillation",
    "DeepseekConfig",
    "DeepseekForCausalLM",
    "DeepseekModel",
    "Description",
    "ExpertBalancing",
    "describe",
    "save_fp8_checkpoint",
    "update_biases",
]
