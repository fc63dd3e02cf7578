"""What a model folder must hold before anything of it is loaded.

Weights are read as safetensors alone, which is a table of numbers. A `.bin` is a pickle, which is a program: it is
never opened. Python files beside the weights are never run either (`trust_remote_code=False` wherever a model is read).
"""

from pathlib import Path

from pgrpo_ray.errors import ModelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def require_weights(folder: Path, where: str) -> None:
    """Raise `ModelError` about `where` unless `folder` holds weights as safetensors; says how to convert a pickle."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{where}: the weights in {folder} are a pickle ({pickles[0]}), which could run code, so it was not "
            "opened. Take the model's safetensors from its publisher, or convert a folder that you trust, in Python: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER), or for a reward model "
            "AutoModelForSequenceClassification."
        )
    raise ModelError(f"{where}: {folder} holds no weights (*.safetensors). Copy them there.")
