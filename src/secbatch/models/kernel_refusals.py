"""Why a kernel of our own does not run on a GPU: Triton compiles it on the machine where it is first wanted."""

from subprocess import SubprocessError

from secbatch.errors import cause

_mendable: list[str] = []  # the first that a person can do something about; errors would hold a batch's memory


def refusals() -> tuple[type[Exception], ...]:
    """What Triton raises where a kernel cannot run: an older GPU, and the kinds that `note` keeps.

    Raises ImportError where there is no Triton: builds of torch for other systems come without it.
    """
    from triton import TritonError

    return (TritonError, RuntimeError, TypeError, ValueError, OSError, ImportError, AssertionError, SubprocessError)


def note(problem: Exception) -> None:
    """Keeps a refusal that is not the GPU's but the machine's.

    No folder to write in (OSError), or one from which no code may be run (ImportError); no C compiler (RuntimeError) or
    headers (SubprocessError); a driver that Triton does not find (AssertionError).
    """
    machines = isinstance(problem, OSError | ImportError | AssertionError | SubprocessError)
    if (machines or "C compiler" in str(problem)) and not _mendable:
        _mendable.append(cause(problem))


def obstacle() -> str:
    """What was kept, and how to mend it, as one sentence; empty where nothing was."""
    if not _mendable:
        return ""
    return (
        f"encoders and chat are slower, as Triton could not compile code for this GPU ({_mendable[0]}): it wants a C"
        " compiler, Python's headers and a folder to write in (TRITON_CACHE_DIR; docs/operations.md)"
    )
