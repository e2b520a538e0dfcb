"""What stages are made of, as types: rows, models, launchers, rollouts, rewards."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Unknown keys are errors, values keep their YAML type, instances do not change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class Source(Strict):
    """One set of rows."""

    path: str | None
    """`task:NAME` (generated), a .jsonl / .parquet file, a stage's output_dir, or a hub id."""
    split: str = "train"
    """`train` or `test` of a generated task; the split's name on the hub; ignored for files."""
    columns: dict[str, str] = {}
    """Our column -> the data set's: prompt, completion, answer, text, domain, task, language."""
    constants: dict[str, str] = {}
    """Columns with one value in every row: `{domain: general}`."""
    limit: int | None = Field(default=None, ge=1)
    """Rows to take; a generated task needs it, other sources are taken whole without it."""
    options: dict[str, Any] = {}
    """Options of a generated task."""
    subset: str | None = None
    """Configuration name on the hub."""
    revision: str | None = None
    """Commit of a hub data set."""
    weight: float | None = Field(default=None, gt=0)
    """Share in a mix: 3 and 1 give three rows of the first to one of the second; null takes all."""


class Data(Source):
    """What a stage reads: one source, or a mix of several, and how a row becomes a prompt."""

    mix: dict[str, Source] = {}
    """Named sources sampled by weight; `path` must then be null."""
    template: str | None = None
    """Plain-text prompt with `{prompt}` in it; null leaves the prompt as it is."""
    system_prompt: str | None = None
    """System message; only with `chat: true`."""
    chat: bool = False
    """Wrap prompts into messages, so that the tokenizer's chat template applies."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with prompts longer than the context."""


class Fp8(Strict):
    """Which layers `precision: fp8_block` converts, and how.

    Embedding, output head, routers and norms are kept whatever stands here, as in DeepSeek-V3
    (arXiv 2412.19437, 3.3.1); a kept layer computes in the higher precision.
    """

    include: list[str]
    """Glob patterns of module names (`*.mlp.*`): only these are converted; empty: all that fit."""
    exclude: list[str]
    """Glob patterns of module names that are kept (`*.self_attn.*`)."""
    min_features: int = Field(ge=1)
    """Layers with a side smaller than this are kept; so are sides that 16 does not divide."""
    power_of_two_scales: bool
    """Scales are powers of two (UE8M0), as Blackwell takes them; else float32."""
    strict: bool
    """Stop on a GPU without FP8 units instead of keeping the higher precision."""


class Load(Strict):
    """How weights become a model."""

    dtype: Literal["float32", "bfloat16", "float16", "auto"]
    attn_implementation: str | None
    trust_remote_code: bool
    """Run Python that a model repository ships. Off unless asked for."""
    revision: str | None
    """Commit of a hub model."""
    tokenizer: str | None
    """Tokenizer path, when it is not beside the weights."""
    chat_template: str | None
    """Jinja file that replaces the tokenizer's own template."""
    precision: Literal["fp8_block"] | None = None
    """`fp8_block`: linear layers and routed experts multiply in FP8 with scales per block, forward
    and backward, as DeepSeek-V3 was trained; `dtype` is that of the master weights, which all that
    is saved, optimised and sent holds. null: as `dtype` and `trainer.bf16` say."""
    fp8: Fp8 | None = None
    """Which layers `precision` converts; null: conf/model/hf.yaml's."""
    fused: bool | None = None
    """Decoder layers of Llama, Mistral, Qwen2 and Qwen3 in fewer kernels, and RMSNorm, rotary
    embedding and SwiGLU by liger-kernel's where that is installed and knows the model's kind. null:
    on a CUDA GPU, if weights are not in shards; true: an error elsewhere; false: never."""


class Lora(Strict):
    """Low-rank adapters (PEFT); merged into the weights when the stage ends."""

    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    target_modules: str | list[str]


class Model(Strict):
    """The model a run starts from; every stage reads it through `${model.path}`."""

    path: str | None
    """Hub id, local folder, or a stage's output_dir."""
    load: Load
    lora: Lora | None
    architecture: str | None = None
    """Registered builder of what a stage of kind `pretrain` starts from; null builds nothing."""
    size: str | None = None
    """Which of the model's sizes; null with a `config` that is one size alone."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of a stage of kind `pretrain`, unless that says another."""
    lr_scheduler_type: str = "linear"
    """Its schedule, by transformers' name."""
    config: dict[str, Any] = {}
    """Fields of the architecture by its own names, as in config.json; null: the tokenizer's."""
    sizes: dict[str, dict[str, Any]] = {}
    """Size -> what it changes in `config`; empty for builders that know their sizes themselves."""


class Launcher(Strict):
    """How a stage's worker is started."""

    name: str
    command: Literal["python", "torchrun", "accelerate", "slurm"]
    preset: str | None
    """accelerate / DeepSpeed preset shipped with TRL (`zero3`), or a path to a config file."""
    num_processes: int = Field(ge=1)
    """Processes on one machine, one per device."""
    num_machines: int = Field(ge=1)
    cpu_threads: int | None = Field(ge=1)
    """OpenMP threads of each process; null leaves the machine's default."""
    sbatch: dict[str, str | int] = {}
    """Options of the sbatch script: partition, time, account ..."""
    setup: list[str] = []
    """Shell lines the sbatch script runs first (`module load`, `source .venv/bin/activate`)."""


class Tracker(Strict):
    name: Literal["none", "tensorboard", "trackio", "wandb"]
    project: str | None


class Rollout(Strict):
    """Who writes the completions during training and sampling."""

    engine: Literal["transformers", "compact", "vllm"]
    """`compact`: transformers forward, finished rows dropped; the fast choice without a GPU.
    `transformers` takes over for models with sliding windows and for weights in FSDP shards."""
    batch_size: int = Field(ge=1)
    """Prompts written at a time (`compact`, `transformers`)."""
    vllm_mode: Literal["colocate", "server"]
    """`colocate`: the engine is in the process of the stage. `server`: in that of `r1pipe serve`,
    on other GPUs or another machine, whichever engine that has."""
    server_url: str | None
    """`http://host:port` of the server; `https://` where something in front of it speaks TLS."""
    server_token_file: str | None
    """File with the server's token, readable by nobody else. null: the environment's
    R1PIPE_SERVER_TOKEN, else `server-PORT.token` in $XDG_RUNTIME_DIR/r1pipe or ~/.r1pipe."""
    server_timeout: float = Field(gt=0)
    """Seconds that a stage waits for a server that does not answer, before it fails."""
    server_hang_timeout: float = Field(gt=0)
    """Seconds without a sign of life from the engine's process, after which the server ends it and
    starts another."""
    server_stall_timeout: float = Field(gt=0)
    """Seconds of writing without one more finished completion, likewise."""
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Share of the GPU's memory that vLLM may take: weights and cache."""
    tensor_parallel_size: int = Field(ge=1)
    precision: Literal["auto", "float32", "bfloat16", "float16", "fp8"]
    """What `vllm` and `compact` decode in; `auto`: as the trainer computes, or `load.dtype`. `fp8`
    (vLLM on a GPU with FP8 units): linear layers multiply in FP8, their weights quantised again
    whenever they are sent; in training the off-policy correction must be on."""
    max_model_length: int | None = Field(ge=2)
    """Tokens of prompt and completion together (vLLM); null: the model's own context."""
    max_num_seqs: int | None = Field(ge=1)
    """Completions vLLM writes at a time; null: all of a training step, else vLLM's own number."""
    enforce_eager: bool | None
    """Run vLLM's model without compiling it; null: on a CPU only."""
    logprobs: Literal["engine", "rescore", "none"]
    """Where the log-probabilities of sampled tokens come from that the off-policy correction of
    GRPO weighs them with (`trainer.vllm_importance_sampling_*`): from vLLM's `engine` with the
    tokens, by its reading the completions once more (`rescore`), or from nowhere: no correction."""
    check_every: int = Field(ge=0)
    """Optimizer steps between two comparisons of vLLM's log-probabilities with the trainer's on
    the same tokens; 0: never."""
    check_sequences: int = Field(ge=1)
    """Completions compared each time, on each rank."""
    alarm_threshold: float | None = Field(gt=0)
    """Mean |difference| in nats from which on vLLM does not hold the trainer's weights; null: 0.001
    where it computes in float32, 0.1 in 16 bits."""
    on_alarm: Literal["stop", "warn"]
    vllm: dict[str, Any] = {}
    """More arguments of `vllm.LLM`, by its own names (`{async_scheduling: false}`)."""
    scheduler: Literal["steady", "vllm"] = "steady"
    """Whether vLLM's scheduler is asked about every completion in every step, or about those that
    need more cache or may have ended: the others go on by themselves, the same tokens in less
    time. Versions of vLLM that were not compared are asked about all."""
    measure_raw: bool | None = None
    """Write the second batch of a run once more with vLLM alone, without log-probabilities and
    rewards, and log the speed of writing as a share of that (vLLM in this process). null: on a
    GPU."""
    sleep: bool | None = None
    """Give the engine's GPU memory to the update while nothing is written (vLLM in this process);
    the weights are then sent anew before every writing. null: where the engine's share, the trainer
    and its optimizer would together not fit."""
    overlap_rewards: bool | None = None
    """Reward completions of GRPO while others are still being written, and while the batch is
    scored: the same values. null: where the first batch showed that it gains (rewards that wait for
    worker processes or a sandbox; what computes in this process would only slow the engine)."""


class Sampling(Strict):
    temperature: float = Field(ge=0)
    """0 is greedy."""
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1)
    num_samples: int = Field(ge=1)
    """Completions per prompt."""


class FewShot(Strict):
    """Solved examples put in front of the prompt while sampling; the kept row is without them."""

    path: str
    """Source of the examples (`task:NAME` or a file with prompt and completion)."""
    count: int = Field(ge=1)
    share: float = Field(ge=0, le=1)
    """Share of the prompts that get examples."""
    options: dict[str, Any] = {}


class RewardTerm(Strict):
    """One reward by its registered name; what it accepts beside these it declares itself."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    weight: float
    gate: str | None = None
    """Another reward of the same mapping: where that is below 1, this one is 0."""


Rewards = dict[str, RewardTerm | None]
