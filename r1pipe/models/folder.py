"""Whether a local folder can hold a model, from its file names alone; standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from r1pipe.artifact import MANIFEST, looks_local, model_path
from r1pipe.errors import Problem, did_you_mean

Wanted = Literal["model", "tokenizer", "config"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
"""Any of these is enough for transformers to make a tokenizer."""


def folder_problem(reference: str, wanted: Wanted = "model") -> Problem | None:
    """Return why the model, or only its tokenizer or config, at `reference` cannot be loaded.

    None when nothing speaks against it, as for a hub id.
    """
    path = Path(model_path(reference)).expanduser()
    if not reference.strip():
        return Problem("model.path", "names no model", "a folder or a hub id: `model.path=...`")
    if not path.exists():
        if not looks_local(reference):
            return None
        hint = None
        if path.parent.is_dir():
            hint = did_you_mean(path.name, (entry.name for entry in path.parent.iterdir()))
        return Problem(reference, "no such model folder", hint)
    if (path / MANIFEST).is_file():
        hint = "name a stage of kind pretrain, sft, grpo or distill"
        return Problem(reference, "is a finished stage without a model in it", hint)
    if not path.is_dir():
        return Problem(reference, "is a file; a model is a folder")
    safe = any(path.glob("*.safetensors"))
    if any(path.glob("*.bin")) and not safe and wanted != "config":
        hint = (
            "convert once, where you trust the file: AutoModelForCausalLM.from_pretrained(PATH, "
            "use_safetensors=False).save_pretrained(NEW_PATH), and copy the tokenizer"
        )
        what = "holds only .bin weights (pickles, which can run code when loaded); safetensors only"
        return Problem(reference, what, hint)
    if wanted == "tokenizer":
        return _tokenizer_problem(reference, path)
    if not (path / "config.json").is_file():
        return Problem(reference, "the folder has no config.json: it is not a model")
    if not safe and wanted == "model":
        return Problem(reference, "the folder has no weights (*.safetensors)")
    return None


def _tokenizer_problem(reference: str, path: Path) -> Problem | None:
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        return None
    # transformers would make an empty tokenizer of nothing.
    what = "the folder has no tokenizer"
    hint = "copy its files there, or name another: `model.load.tokenizer=...`"
    return Problem(reference, what, hint)
