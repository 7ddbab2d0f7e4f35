"""MNIST: 70,000 handwritten digits of 28 x 28 pixels (LeCun, Cortes and Burges).

`load_mnist` looks into the folder that it is given, then into the one named by FASTOPT_MNIST_DIR, then into the cache,
which it fills from public mirrors when there is a network. Without one it takes the subset that the package ships:
6,000 training and 1,500 test digits, as many of each class (see mnist_subset/README.md).
"""

from __future__ import annotations

import gzip
import os
import struct
import warnings
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastopt.nn.layers import Array

SUBSET: Any = files(__package__) / "mnist_subset"  # a Path, or what stands for one in a zip file
INSTEAD = (
    "the MNIST subset that comes with fastopt (the full set is not in the cache and could not be fetched; "
    "FASTOPT_MNIST_DIR can name a folder that has it)"
)
DIRECTORY_VARIABLE = "FASTOPT_MNIST_DIR"

# sha256 of the files as they have always been published
FILES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")


class DataError(ValueError):
    """Data that cannot be used, in a folder or a file; the text is one line."""


class Mnist(NamedTuple):
    """Where the data came from, and the data."""

    source: str
    train: tuple[Array, Array]
    test: tuple[Array, Array]


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    *,
    directory: str | os.PathLike[str] | None = None,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """`(x_train, t_train), (x_test, t_test)`.

    Parameters
    ----------
    normalize : bool
        Pixels as float32 from 0 to 1, otherwise as uint8 from 0 to 255.
    flatten : bool
        Images of shape (n, 784), otherwise (n, 1, 28, 28).
    one_hot_label : bool
        Labels as uint8 rows of shape (n, 10), otherwise as uint8 of shape (n,).
    directory : path, optional
        A folder with the four files, as published or unpacked.

    Warns
    -----
    UserWarning
        if all of MNIST can be neither found nor fetched, so that it is the subset that is returned.

    Raises
    ------
    DataError
        if `directory` or the folder named by FASTOPT_MNIST_DIR does not hold the four files undamaged.
    """
    data = read_mnist(directory)
    warn_of_subset(data)
    return as_arrays(data, normalize, flatten, one_hot_label)


def warn_of_subset(data: Mnist) -> None:
    """Says so if the data are the subset because there was nothing else."""
    if data.source.startswith(INSTEAD):
        warnings.warn(f"{data.source}; FASTOPT_MNIST_DIR or `directory` names a folder with all of it", stacklevel=3)


def as_arrays(
    data: Mnist, normalize: bool = True, flatten: bool = True, one_hot_label: bool = False
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The arrays of `load_mnist`, from data that were read."""
    images = [
        x.reshape(len(x), 784) if flatten else x.reshape(len(x), 1, 28, 28) for x in (data.train[0], data.test[0])
    ]
    if normalize:
        images = [x.astype(np.float32) / np.float32(255) for x in images]
    else:
        images = [x.copy() for x in images]  # the caller's, to write into
    labels = [np.eye(10, dtype=np.uint8)[t] if one_hot_label else t.copy() for t in (data.train[1], data.test[1])]
    return (images[0], labels[0]), (images[1], labels[1])


def read_mnist(directory: str | os.PathLike[str] | None = None) -> Mnist:
    """The raw images, uint8 of shape (n, 28, 28), the labels, uint8 of shape (n,), and where they came from."""
    if directory is not None:
        folder = directory if directory is SUBSET else Path(directory)
        return _read_folder(folder, f"MNIST from {folder}")
    if named := os.environ.get(DIRECTORY_VARIABLE):
        return _read_folder(Path(named), f"MNIST from {named} ({DIRECTORY_VARIABLE})")
    if (cached := _cached_or_downloaded()) is not None:
        return _read_folder(cached, f"MNIST from {cached}")
    return _read_folder(SUBSET, INSTEAD)


def _read_folder(folder: Any, source: str) -> Mnist:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it should hold the four MNIST files, {', '.join(FILES)}")
    train_images, train_labels, test_images, test_labels = (_read_idx(_find(folder, name)) for name in FILES)
    for images, labels, which in ((train_images, train_labels, "train"), (test_images, test_labels, "t10k")):
        if images.shape != (len(labels), 28, 28) or labels.ndim != 1 or len(labels) == 0 or labels.max() > 9:
            raise DataError(
                f"{folder}: the {which} files do not fit together: images of shape {images.shape}, labels of shape "
                f"{labels.shape}; expected (n, 28, 28) and (n,) with labels from 0 to 9"
            )
    counts = f"{len(train_labels):,} training and {len(test_labels):,} test digits"
    return Mnist(f"{source}: {counts}", (train_images, train_labels), (test_images, test_labels))


def _find(folder: Any, name: str) -> Any:
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise DataError(f"{folder} does not hold {name}; it should hold the four MNIST files, {', '.join(FILES)}")


def _read_idx(path: Any) -> Array:
    """An IDX file: 0, 0, 8 for uint8, the number of dimensions, the dimensions as big-endian ints, the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); fetch it again") from None
    dimensions = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * dimensions
    if content[:3] != b"\0\0\x08" or not 1 <= dimensions <= 3 or len(content) < start:
        raise DataError(f"{path} is damaged (not an IDX file of bytes); fetch it again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = int(np.prod(shape, dtype=np.uint64))
    if len(content) - start != expected:
        raise DataError(
            f"{path} is damaged (holds {len(content) - start} bytes of data, expected {expected}); fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _cached_or_downloaded() -> Path | None:
    """The cache folder with the four files, checked by sha256; None if they are not there and cannot be fetched."""
    try:
        import pooch
        import requests
    except ImportError:
        return None
    pooch.get_logger().setLevel("WARNING")
    download = pooch.HTTPDownloader(timeout=(3, 30))
    for mirror in MIRRORS:
        cache = pooch.create(path=pooch.os_cache("fastopt") / "mnist", base_url=mirror, registry=FILES)
        try:
            paths = [cache.fetch(name, downloader=download) for name in FILES]
        except (requests.RequestException, OSError, ValueError):
            continue  # no network, no such file, a damaged file, a folder that cannot be written to: the next mirror
        return Path(paths[0]).parent
    return None
