"""What texts that come again cost: python benchmarks/repeats.py [--rows N] [--model M]

Two jobs of as many rows, from CSV to Parquet with fill-mask: one whose texts are all different, and one whose second
half repeats the first, as far apart as half a corpus is. In turn, several rounds.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from encoder_ours import end_to_end
from sentences import distinct_sentences, write_csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="builtin/mlm", help="a masked language model; the built-in one if left out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    half = options.rows // 2
    sentences = distinct_sentences(None, 2 * half)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = {"all different": folder / "different.csv", "the second half repeats the first": folder / "half.csv"}
        write_csv(files["all different"], sentences)
        # The longer texts stand at the end of `sentences`: of each pair the first is taken, so both are as long.
        write_csv(files["the second half repeats the first"], sentences[::2] * 2)
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for turn in range(options.rounds + 1):
            for name, file in files.items():
                run = end_to_end("fill-mask", options.model, file, folder / "out", options.device, options.precision)
                if turn:  # the first one warms
                    seconds[name].append(run.steady)
    print(f"{2 * half:,} rows, {options.model}")
    for name, spent in seconds.items():
        print(f"{name:36}{2 * half / np.median(spent):>10,.1f} rows/s")
    different, repeated = (np.array(spent) for spent in seconds.values())
    print(f"{np.median(different / repeated):.2f} times as fast")


if __name__ == "__main__":
    main()
