"""Common ground of the experiments: settings, data, optimizers by backend, progress bars, and a result to save."""

from __future__ import annotations

import inspect
import numbers
from base64 import b64encode
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure

from fastopt import reference, representation
from fastopt.commands.console import BarColumn, Console, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from fastopt.nn import MultiLayerNet
from fastopt.nn.layers import Array
from fastopt.nn.mnist import SUBSET, as_arrays, read_mnist, warn_of_subset
from fastopt.optimizers import OPTIMIZERS

BACKENDS = ("compiled", "reference")

Thing = TypeVar("Thing")


class Data(NamedTuple):
    """MNIST as float32 rows from 0 to 1 and integer labels."""

    x_train: Array
    t_train: Array
    x_test: Array
    t_test: Array


@dataclass(frozen=True)
class Settings:
    """The settings that every experiment takes."""

    seed: int = 0
    quick: bool = False
    backend: str = "compiled"
    directory: Path | None = None
    console: Console | None = None
    """Where progress bars go, if anywhere."""
    source: str = field(default="", init=False)
    """Where the data came from, once they are read."""

    def optimizer(self, name: str, **hyperparameters: float) -> Any:
        """A new optimizer of a rule, compiled or in plain NumPy."""
        compiled = OPTIMIZERS[name]
        kind = compiled if self.backend == "compiled" else getattr(reference, compiled.__name__)
        return kind(**hyperparameters)

    @cached_property
    def data(self) -> Data:
        """MNIST: from the folder that was named; else, for a quick run, the subset; else the full set if possible."""
        if self.quick and self.directory is None:
            mnist = read_mnist(SUBSET)._replace(source="the MNIST subset that comes with fastopt")
        else:
            mnist = read_mnist(self.directory)
        if self.console is None:
            warn_of_subset(mnist)
        self.say(f"data: {mnist.source}")
        object.__setattr__(self, "source", mnist.source)
        (x_train, t_train), (x_test, t_test) = as_arrays(mnist)
        return Data(x_train, t_train, x_test, t_test)

    def say(self, text: str) -> None:
        """Prints a line where progress bars go."""
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False)

    def track(self, things: Sequence[Thing] | Iterable[Thing], what: str, total: int | None = None) -> Generator[Thing]:
        """The things one after the other, with a progress bar."""
        if self.console is None:
            yield from things
            return
        columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            yield from progress.track(things, total=total, description=what)


@dataclass(repr=False)
class Result:
    """The result of an experiment."""

    title: str
    finding: str
    """One sentence on what the picture shows, with this run's numbers."""
    curves: dict[str, Array]
    """Columns of equal length: the abscissa first, then what is drawn over it."""
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    """The table at the end, as text."""
    draw: Callable[[], Figure]
    """Makes the picture."""
    name: str = ""
    data: str = ""
    """Where the data came from, if the experiment takes any."""
    stopped: bool = False
    """Whether Ctrl-C ended it early; it holds what was finished."""

    def __repr__(self) -> str:
        """Title and finding; the curves are long."""
        return f"{type(self).__name__} of {self.name or self.title}: {self.finding}"

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        content = BytesIO()
        self.draw().savefig(content, dpi=130)
        return content.getvalue()

    def _repr_html_(self) -> str:
        """Finding, picture and table; where there is HTML, notebooks show no PNG beside it."""
        picture = b64encode(self._repr_png_()).decode()
        table = representation.html_table(self.header, self.rows)
        return f'<p>{escape(self.finding)}</p><img src="data:image/png;base64,{picture}" width="900">{table}'

    def save(self, folder: Path | str, picture_format: str = "png") -> tuple[Path, Path]:
        """Writes NAME.png (or svg, pdf) and NAME.csv into the folder, which is made if need be; returns their paths."""
        picture, table = files(Path(folder), self.name, picture_format)
        picture.parent.mkdir(parents=True, exist_ok=True)
        self.draw().savefig(picture, dpi=130)
        columns = np.column_stack(list(self.curves.values()))
        np.savetxt(table, columns, "%.9g", ",", header=",".join(self.curves), comments="")
        return picture, table


class Experiment:
    """A function from settings to a result, as users call it.

    Parameters of a call
    --------------------
    seed : int
        The random seed.
    quick : bool
        A run of a few seconds, on the MNIST subset that comes with the package unless `data` is given.
    backend : "compiled" or "reference"
        fastopt's optimizers or those of `fastopt.reference`; the curves are the same.
    data : path, optional
        A folder with the four MNIST files; see `fastopt.nn.load_mnist` for what is taken without it.
    out : path, optional
        A folder to write NAME.png and NAME.csv to.
    console : rich.console.Console, optional
        Shows progress bars.
    options
        Switches of the experiment's own.

    Returns a `Result`. Raises ValueError or TypeError for bad settings, DataError for bad data, OSError if `out`
    cannot be written to; all before anything is computed.
    """

    def __init__(self, body: Callable[..., Result]) -> None:
        self.body = body
        self.name = body.__module__.rsplit(".", 1)[1].replace("_", "-")
        self.summary = str(body.__doc__).split("\n", 1)[0]
        parameters = list(inspect.signature(body).parameters.values())[1:]
        self.options = [option.name for option in parameters]
        shared = list(inspect.signature(self.__call__).parameters.values())[:-1]
        keyword_only = [option.replace(kind=option.KEYWORD_ONLY) for option in parameters]
        self.__signature__ = inspect.Signature([*shared, *keyword_only], return_annotation="Result")
        self.__doc__ = f"{inspect.cleandoc(body.__doc__ or '')}\n\n{inspect.cleandoc(str(Experiment.__doc__))}"

    def __reduce__(self) -> Any:
        return experiment, (self.name,)

    def __call__(
        self,
        *,
        seed: int = 0,
        quick: bool = False,
        backend: str = "compiled",
        data: Path | str | None = None,
        out: Path | str | None = None,
        console: Console | None = None,
        **options: bool,
    ) -> Result:
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or int(seed) < 0:
            raise ValueError(f"{self.name}: seed must be a whole number of at least 0, got {seed!r}")
        if backend not in BACKENDS:
            raise ValueError(f"{self.name}: backend must be {' or '.join(map(repr, BACKENDS))}, got {backend!r}")
        for option in options:
            if option not in self.options:
                raise TypeError(
                    f"{self.name} has no setting {option!r}; it has {', '.join(self.__signature__.parameters)}"
                )
        for switch, value in {"quick": quick, **options}.items():
            if not isinstance(value, bool):
                raise TypeError(f"{self.name}: {switch} must be True or False, got {value!r}")
        settings = Settings(int(seed), quick, backend, None if data is None else Path(data), console)
        if out is not None:
            for path in files(Path(out), self.name):
                check_writable(path)
        if data is not None:
            _ = settings.data  # a mistake shows now, also where no data are needed
        result = self.body(settings, **options)
        result.name, result.data = self.name, settings.source
        if out is not None:
            result.save(out)
        return result


def experiment(name: str) -> Experiment:
    """The experiment of one of the names in `fastopt.experiments.NAMES`."""
    run: Experiment = import_module(f"fastopt.experiments.{name.replace('-', '_')}").run
    return run


def files(folder: Path, name: str, picture_format: str = "png") -> tuple[Path, Path]:
    """Where picture and curves go."""
    return folder / f"{name}.{picture_format}", folder / f"{name}.csv"


def check_writable(path: Path) -> None:
    """Raises OSError now instead of after minutes of training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()


def train(network: MultiLayerNet, optimizer: Any, x: Array, t: Array, batches: Iterable[Array]) -> Array:
    """A step for each batch, given as row numbers; returns the loss of each batch right after its step, as the book."""
    losses, grads = [], None
    for rows in batches:
        x_batch, t_batch = x[rows], t[rows]
        grads = network.gradient(x_batch, t_batch, out=grads)
        optimizer.update(network.params, grads)
        losses.append(network.loss(x_batch, t_batch))
    return np.array(losses)


def draw_batches(settings: Settings, rows: int, steps: int, batch: int) -> Array:
    """Row numbers of shape (steps, batch), drawn with replacement: the same for each training of an experiment."""
    return np.random.default_rng(settings.seed).integers(0, rows, size=(steps, batch))
