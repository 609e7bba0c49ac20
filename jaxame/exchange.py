"""Masks go out, utilities come back: how an estimator asks a game that lives in another environment.

This file needs NumPy, of any version, and nothing of this package, so that the other environment needs neither it nor
jax. One program starts the other (`start`) and is found by it (`to_starter`); they share a folder, and two pipes for
lines of text, so that what a package prints is not in the way. Either of them may be the one that asks:

1. It saves masks in the folder, bool `[m, N]`, as `.npy`, and writes the name of the file as a line.
2. The other one loads them, saves utilities, float64 `[m, Q]`, as `.npy`, and writes the name of that file as a line.
   A submodel that failed is NaN. The one that asked removes both files, and may ask again.
3. At last it writes a JSON object as a line, the outcome, which is whatever both agree on.

No file is loaded with pickle. A program that is started can `import jaxame_exchange`, which is a copy of this file.
"""

from __future__ import annotations  # for Python 3.9

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

_ADDRESS, _MODULE = "JAXAME_EXCHANGE", "jaxame_exchange"
_CHARACTERS = 2000  # of what a program printed, in an error
_SECONDS_TO_END = 10.0


class ExchangeError(RuntimeError):
    """The other program ended, took too long, or sent what it must not."""


class Channel:
    """What goes between two programs; from `start` or `to_starter`.

    Args:
      write: lines to the other program.
      read: lines from it.
      folder: the one they share.
    """

    def __init__(self, write: IO[str], read: IO[str], folder: Path):
        self._write, self._read, self._folder, self._count = write, read, folder, 0

    def ask(self, masks: Any) -> np.ndarray:
        """Return utilities, float64 `[m, Q]`, of masks, bool `[m, N]`.

        Raises:
          ExchangeError: if the other program ended, or its answer is not as described.
        """
        self._count += 1
        name = f"{self._count}.masks.npy"
        np.save(self._folder / name, masks, allow_pickle=False)
        self._send(name)
        answer = self._receive()
        utilities = self._load(answer)
        fits = utilities.ndim == 2 and len(utilities) == len(masks) and utilities.dtype == np.float64
        _require(fits, f"utilities float64 [{len(masks)}, Q]", _describe(utilities))
        for used in (name, answer):
            (self._folder / used).unlink()
        return utilities

    def answer(self, utility: Callable[[np.ndarray], Any], num_sources: int) -> dict[str, Any]:
        """Answer until the other program is done, and return its outcome.

        Args:
          utility: maps masks, bool `[m, N]`, to utilities `[m, Q]` or, for one query, `[m]`.
          num_sources: `N`.

        Raises:
          ExchangeError: if the other program ended without an outcome, or asks for what is not as described.
          ValueError: if `utility` returns another shape.
        """
        while not (line := self._receive()).startswith("{"):
            masks = self._load(line)
            fits = masks.ndim == 2 and masks.shape[1] == num_sources and masks.dtype == bool
            _require(fits, f"masks bool [m, {num_sources}]", _describe(masks))
            utilities = np.asarray(utility(masks), np.float64)
            if utilities.ndim not in (1, 2) or len(utilities) != len(masks):
                raise ValueError(f"needs utilities [{len(masks)}, Q]; got {_describe(utilities)}")
            self._count += 1
            name = f"{self._count}.utilities.npy"
            np.save(self._folder / name, utilities.reshape(len(masks), -1), allow_pickle=False)
            self._send(name)
        try:
            outcome: dict[str, Any] = json.loads(line)
            return outcome
        except ValueError as error:
            raise ExchangeError(f"needs an outcome in JSON; got {line!r}") from error

    def finish(self, outcome: Mapping[str, Any] | None = None) -> None:
        """Tell the program that answers that there is nothing more to ask.

        Args:
          outcome: what it gets, JSON-serialisable.
        """
        self._send(json.dumps(dict(outcome or {})))

    def _load(self, name: str) -> np.ndarray:
        _require(name == Path(name).name and name.endswith(".npy"), "the name of an .npy file in the folder", name)
        try:
            return np.asarray(np.load(self._folder / name, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise ExchangeError(f"needs {name} to be an .npy file without Python objects; got {error}") from error

    def _send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # of a program that is gone: then there is no further line
            print(line, file=self._write, flush=True)

    def _receive(self) -> str:
        line = self._read.readline()
        _require(line.endswith("\n"), "a line from the other program", f"{line!r}, and then its end")
        return line[:-1]


class _Started(Channel):
    """A channel to a program that this one started; says what became of it."""

    def __init__(
        self,
        write: IO[str],
        read: IO[str],
        folder: Path,
        process: subprocess.Popen[bytes],
        printed: IO[str],
        patience: float | None,
    ):
        super().__init__(write, read, folder)
        self._process, self._printed, self._patience = process, printed, patience

    def _receive(self) -> str:
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(self._process)

        patience = threading.TIMEOUT_MAX if self._patience is None else self._patience
        timer = threading.Timer(min(patience, threading.TIMEOUT_MAX), stop)
        timer.daemon = True
        timer.start()
        try:
            return super()._receive()
        except ExchangeError as error:
            if late.is_set():
                raise ExchangeError(f"needs a line within {self._patience:g} s; got none") from error
            raise ExchangeError(f"{error}, {self._ended()}") from error
        finally:
            timer.cancel()

    def _ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)
        self._printed.seek(0)
        return f"exit status {self._process.returncode}: {self._printed.read()[-_CHARACTERS:]}"


@contextlib.contextmanager
def start(
    command: Sequence[str], *, patience: float | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Channel]:
    """Start a program, in an environment of its own, and yield the channel to it; at the end it is gone.

    Not on Windows, where programs inherit no pipes. What the program prints is kept for errors to show the end of.

    Args:
      command: the program and its arguments, such as `["/elsewhere/bin/python", "trainer.py"]`.
      patience: seconds to wait for a line of it, above 0; by default as long as it takes.
      variables: of its environment, beside those that are there.

    Raises:
      OSError: if it cannot be started.
      ValueError: for a patience that is not above 0.
    """
    if patience is not None and not patience > 0:
        raise ValueError(f"needs patience to be above 0 s, or None; got {patience}")
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        printed = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        shutil.copy(__file__, Path(name) / f"{_MODULE}.py")
        (from_it, its_write), (its_read, to_it) = os.pipe(), os.pipe()
        read, write = stack.enter_context(os.fdopen(from_it, errors="replace")), os.fdopen(to_it, "w")
        stack.callback(_close, write)
        own = {**os.environ, **(variables or {}), _ADDRESS: json.dumps([its_write, its_read, name])}
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [name, own.get("PYTHONPATH")]))
        try:
            process = subprocess.Popen(
                list(command),
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=(its_write, its_read),
                start_new_session=True,  # so that it is killed with what it starts, as a script may
            )
        finally:
            os.close(its_write)
            os.close(its_read)
        try:
            yield _Started(write, read, Path(name), process, printed, patience)
            _close(write)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
        finally:
            _kill(process)
            process.wait()


def to_starter() -> Channel:
    """Return the channel to the program that started this one.

    Raises:
      ExchangeError: if this program was not started by `start`.
    """
    address = os.environ.get(_ADDRESS, "")
    _require(bool(address), "a program that was started by jaxame.exchange.start", f"no variable {_ADDRESS}")
    write, read, folder = json.loads(address)
    return Channel(os.fdopen(write, "w"), os.fdopen(read), Path(folder))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and what it started, unless it was waited for: then its number may be another's."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of them are gone
            os.killpg(process.pid, signal.SIGKILL)


def _close(stream: IO[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # of a program that is gone
        stream.close()


def _require(condition: bool, needs: str, got: object) -> None:
    if not condition:
        raise ExchangeError(f"needs {needs}; got {got}")


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
