"""MNIST from every place it may come from."""

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastopt.nn import DataError, load_mnist, mnist


def test_the_shipped_subset_is_balanced():
    (x, t), (x_test, t_test) = load_mnist(directory=mnist.SUBSET)
    assert x.shape == (6000, 784) and x_test.shape == (1500, 784) and x.dtype == np.float32
    assert x.min() == 0 and x.max() == 1
    assert np.bincount(t).tolist() == [600] * 10 and np.bincount(t_test).tolist() == [150] * 10
    size = sum(path.stat().st_size for path in mnist.SUBSET.glob("*.gz"))
    assert 1e6 < size < 1.5e6


def test_forms_of_the_data():
    (x, t), _ = load_mnist(directory=mnist.SUBSET, normalize=False, flatten=False, one_hot_label=True)
    assert x.shape == (6000, 1, 28, 28) and x.dtype == np.uint8 and t.shape == (6000, 10) and (t.sum(axis=1) == 1).all()


def test_arrays_are_the_callers():
    for options in ({}, {"normalize": False}, {"one_hot_label": True}):
        for x, t in load_mnist(directory=mnist.SUBSET, **options):
            x[0] = 0
            t[0] = 0


def test_it_says_so_where_there_is_the_subset_only():
    with pytest.warns(
        UserWarning,
        match="the MNIST subset that comes with fastopt .* 6,000 training and 1,500 test digits; FASTOPT_MNIST_DIR",
    ):
        load_mnist()


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "my digits"
    shutil.copytree(mnist.SUBSET, target)
    return target


def test_folders_and_the_variable(folder, monkeypatch):
    assert mnist.read_mnist(folder).source == f"MNIST from {folder}: 6,000 training and 1,500 test digits"
    packed = folder / "train-images-idx3-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    monkeypatch.setenv("FASTOPT_MNIST_DIR", str(folder))
    assert mnist.read_mnist().source.startswith(f"MNIST from {folder} (FASTOPT_MNIST_DIR)")
    assert len(mnist.read_mnist().train[0]) == 6000


def test_the_cache_comes_before_the_subset(folder, monkeypatch):
    monkeypatch.setattr(mnist, "_cached_or_downloaded", lambda: folder)
    assert mnist.read_mnist().source.startswith(f"MNIST from {folder}: ")


DAMAGES = {
    "missing file": (lambda path: path.unlink(), "does not hold train-images-idx3-ubyte.gz"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
    "not gzip": (lambda path: path.write_bytes(b"<html>not found</html>"), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "flipped bits": (lambda path: path.write_bytes(path.read_bytes()[:5000] + b"x" * 99 + path.read_bytes()[5099:]), "is damaged"),
    "not IDX": (lambda path: path.write_bytes(gzip.compress(b"hello, hello")), "not an IDX file of bytes"),
    "short": (lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1])), r"holds 4703999 bytes of data, expected 4704000"),
    "labels as images": (lambda path: shutil.copy(path.with_name("train-labels-idx1-ubyte.gz"), path), "do not fit together"),
    "other set": (lambda path: shutil.copy(path.with_name("t10k-images-idx3-ubyte.gz"), path), "do not fit together"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data(damage, folder):
    change, words = DAMAGES[damage]
    change(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=words) as caught:
        load_mnist(directory=folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="is not a folder; it should hold the four MNIST files"):
        load_mnist(directory=tmp_path / "nowhere")


class FakeMirror:
    """Stands in for pooch's downloader."""

    def __init__(self, content):
        self.content = content

    def __call__(self, url, output_file, pooch):
        if self.content is None:
            import requests

            raise requests.ConnectionError("no network")
        Path(output_file).write_bytes(self.content)


@pytest.mark.parametrize("content", [None, b"a page that asks to log in"])
def test_no_network_or_a_wrong_answer_leave_the_subset(content, monkeypatch, tmp_path):
    monkeypatch.undo()  # of the fixture that keeps the other tests off the network
    import pooch

    monkeypatch.delenv("FASTOPT_MNIST_DIR", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **kwargs: FakeMirror(content))
    assert "subset that comes with fastopt" in mnist.read_mnist().source


def test_the_checksums_are_looked_at(monkeypatch, tmp_path):
    monkeypatch.undo()
    import pooch

    monkeypatch.delenv("FASTOPT_MNIST_DIR", raising=False)
    contents = {name: (mnist.SUBSET / name).read_bytes() for name in mnist.FILES}
    monkeypatch.setattr(
        mnist, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    )
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    asked = []

    def download(url, output_file, pooch):
        asked.append(url)
        Path(output_file).write_bytes(contents[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **kwargs: download)
    for _ in range(2):
        assert mnist.read_mnist().source.startswith(f"MNIST from {tmp_path}")
    assert len(asked) == 4 and asked[0].startswith(mnist.MIRRORS[0])
