INTERFACE: int

def column(
    addresses: tuple[int, int, int, int], sizes: tuple[int, int, int], wide: bool, of_null: bytes, /
) -> None: ...
