"""Settings of libraries in the environment of a process (HF_..., TORCH_...), which they read when they are loaded."""

import os
import traceback

from secbatch.errors import SecbatchError, cause

_PREFIXES = {
    "huggingface_hub": "HF_",
    "joblib": "JOBLIB_",
    "sklearn": "SKLEARN_",
    "torch": "TORCH",
    "transformers": "TRANSFORMERS",
}


def refused(error: BaseException) -> SecbatchError | None:
    """The sentence for `error`, where it ended the import of a library that does not take a value."""
    if not isinstance(error, ValueError):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    library = str(frames[-1].f_globals.get("__name__")).partition(".")[0] if frames else "secbatch"
    if library not in _PREFIXES:
        return None
    names = ", ".join(sorted(name for name in os.environ if name.startswith(_PREFIXES[library])))
    return SecbatchError(
        f"library {library} cannot be loaded with the environment of this process ({cause(error)}); mend or unset the"
        f" variable with that value{f' (there are {names})' if names else ''}"
    )
