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
def sum_norm(
    addresses: tuple[int, int, int, int, int], rows: int, width: int, eps: float, bfloat16: bool, threads: int, /
) -> None: ...
def cache(
    addresses: tuple[int, int, int, int],
    sizes: tuple[int, int, int, int, int],
    strides: tuple[int, int, int, int, int, int, int],
    bfloat16: bool,
    threads: int,
    /,
) -> None: ...
