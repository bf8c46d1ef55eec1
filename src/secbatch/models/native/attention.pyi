def supported() -> bool: ...
def attend(
    qkv: int,
    out: int,
    bounds: int,
    sequences: int,
    heads: int,
    dim: int,
    window: int,
    bfloat16: bool,
    threads: int,
    /,
) -> None: ...
