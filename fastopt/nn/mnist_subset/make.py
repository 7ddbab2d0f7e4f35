"""Makes the MNIST subset that the package ships: the first digits of each class, in the order of the full files.

python fastopt/nn/mnist_subset/make.py FOLDER_WITH_MNIST [FOLDER_TO_WRITE]
"""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np

from fastopt.nn.layers import Array
from fastopt.nn.mnist import FILES, read_mnist

PER_CLASS = {"train": 600, "t10k": 150}


def main(source: str, target: str) -> None:
    data = read_mnist(source)
    images: dict[str, Array] = {"train": data.train[0], "t10k": data.test[0]}
    labels: dict[str, Array] = {"train": data.train[1], "t10k": data.test[1]}
    for name in FILES:
        part = name.split("-")[0]
        chosen = np.sort(
            np.concatenate([np.flatnonzero(labels[part] == digit)[: PER_CLASS[part]] for digit in range(10)])
        )
        array = (images if "images" in name else labels)[part][chosen]
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        # mtime=0: the same bytes whenever it is run
        (Path(target) / name).write_bytes(gzip.compress(header + array.tobytes(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(Path(__file__).parent))
