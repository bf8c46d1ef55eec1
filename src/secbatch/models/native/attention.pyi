INTERFACE: int

def supported() -> bool: ...
def within(
    qkv: int,
    out: int,
    bounds: int,
    bias: int,
    sequences: int,
    heads: int,
    dim: int,
    window: int,
    bfloat16: bool,
    threads: int,
    /,
) -> None: ...
def cache(
    addresses: tuple[int, int, int, int],
    sizes: tuple[int, int, int, int, int],
    strides: tuple[int, int, int, int, int, int, int],
    bfloat16: bool,
    threads: int,
    /,
) -> None: ...
