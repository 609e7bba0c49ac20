"""Arrays on disk that grow by chunks of rows, each committed as a whole.

Below the place of a store, which is a folder or any other key-value store of tensorstore, lie

    manifest.json           what the arrays are
    <array>/                a zarr3 array, rows first, with a CRC-32C in each of its chunks
    commits/<chunk>.<rows>  SHA-256 sums of the rows of a chunk in each array, and of these, written after them

A key is written at once or not at all. A chunk counts if it has a commit that agrees with the arrays: a writer that is
killed leaves nothing that counts, and what was damaged later does not count any more. Where two writers have the same
chunk, the commit of the first stands.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MANIFEST, _COMMITS = "manifest.json", "commits/"
_SIGNS_OF_DAMAGE = ("DATA_LOSS:", "Not enough data:")  # in what tensorstore says; the rest may pass


class StoreError(OSError):
    """What is stored cannot be read or written; the text says what, where and why."""


class DamageError(StoreError):
    """What was read is not what was written, or is not there; reading again would not help."""


class Field(NamedTuple):
    """An array of a store.

    Attributes:
      shape: of one row.
      dtype: name of the type, such as "float32".
      checked: whether two writers of a chunk write the same; if not, as with times, only zarr's sums guard it.
    """

    shape: tuple[int, ...]
    dtype: str
    checked: bool = True


class Store:
    """A store at one place.

    Args:
      place: a folder, a URL such as `gs://bucket/run/`, or a specification of a `tensorstore.KvStore`.
      context: of tensorstore, which places in memory are found by.
    """

    def __init__(self, place: str | PathLike[str] | dict[str, Any], context: Any = None):
        import tensorstore  # takes half a second, which others need not wait for

        self._ts = tensorstore
        self._context = tensorstore.Context() if context is None else context
        self.place = str(place)
        with self._explained("open"):
            self._keys = tensorstore.KvStore.open(_as_spec(place), context=self._context).result()
        self._arrays: dict[str, Any] = {}

    def below(self, name: str) -> "Store":
        """Return the store in a folder of this one."""
        return Store((self._keys / f"{name}/").spec().to_json(), self._context)

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None if there is none.

        Raises:
          StoreError: if it cannot be read.
        """
        with self._explained(f"read {_MANIFEST}"):
            found = self._keys.read(_MANIFEST).result()
            if found.state == "missing":
                return None
            manifest = json.loads(found.value)
        if not isinstance(manifest, dict):
            raise StoreError(f"cannot read {_MANIFEST} in {self.place}: it is not a JSON object")
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
        """Write the manifest in place of the one that is known, or of none; return whether that was still there.

        Raises:
          StoreError: if it cannot be written.
        """
        text = json.dumps(manifest, indent=2) + "\n"
        with self._explained(f"write {_MANIFEST}"):
            found = self._keys.read(_MANIFEST).result()
            if (None if found.state == "missing" else json.loads(found.value)) != known:
                return False
            stamp = self._keys.write(_MANIFEST, text.encode(), if_equal=found.stamp.generation).result()
        return bool(stamp.generation)

    def define(self, fields: Mapping[str, Field], num_rows: int, chunk_rows: int) -> None:
        """Say what the arrays are, which `write` and `read` then use.

        Their shape and type are taken from here, so that a damaged `zarr.json` loses nothing.

        Args:
          fields: by name.
          num_rows: `M`; may be more than it was.
          chunk_rows: rows of a chunk; the last may have fewer.
        """
        self.fields, self.num_rows, self.chunk_rows = dict(fields), num_rows, chunk_rows
        with self._explained("open the arrays"):
            for name in fields:
                self._arrays[name] = self._open(name, num_rows)

    def _open(self, name: str, num_rows: int) -> Any:
        spec = {
            "driver": "zarr3",
            "kvstore": (self._keys / f"{name}/").spec().to_json(),
            "metadata": _metadata(self.fields[name], num_rows, self.chunk_rows),
        }
        return self._ts.open(spec, open=True, assume_metadata=True, context=self._context).result()

    def write_metadata(self) -> None:
        """Write the `zarr.json` of every array, for other readers of zarr."""
        with self._explained("write zarr.json"):
            for name, field in self.fields.items():
                text = json.dumps(_metadata(field, self.num_rows, self.chunk_rows))
                self._keys.write(f"{name}/zarr.json", text.encode()).result()

    @property
    def num_chunks(self) -> int:
        """Chunks of all rows."""
        return -(-self.num_rows // self.chunk_rows)

    def rows(self, chunk: int) -> slice:
        """Which rows are in a chunk."""
        return slice(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.num_rows))

    def write(self, chunk: int, arrays: Mapping[str, np.ndarray], sums: Mapping[str, str] | None = None) -> bool:
        """Write and commit the rows of a chunk; return whether this commit, and not another's, stands.

        Args:
          chunk: number of the chunk.
          arrays: for every field its rows `[rows of the chunk, ...]`.
          sums: of what is not kept, to be committed with it.

        Raises:
          StoreError: if it cannot be written; the chunk then does not count.
        """
        if self.has(chunk):
            return False
        rows = self.rows(chunk)
        own = {name: _sum_of(arrays[name]) for name, field in self.fields.items() if field.checked}
        with self._explained(f"write chunk {chunk}"):
            for written in [self._arrays[name][rows].write(arrays[name]) for name in self.fields]:
                written.result()
            key = _commit_of(chunk, rows.stop - rows.start)
            missing = self._keys.read(key).result()
            if missing.state != "missing":
                return False
            every = own | dict(sums or {})
            text = json.dumps({"sha256": every, "of_these": _sum_of_text(every)})
            stamp = self._keys.write(key, text.encode(), if_equal=missing.stamp.generation).result()
        return bool(stamp.generation)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of an array, whether committed or not.

        Rows never written are NaN, integers 0. There may be more rows than this store knows of.

        Raises:
          DamageError: if they are not as they were written.
          StoreError: if they cannot be read.
        """
        with self._explained(f"read rows {start} to {stop} of {name}"):
            array = self._arrays[name] if stop <= self.num_rows else self._open(name, stop)
            return np.asarray(array[start:stop].read().result())

    def committed(self) -> dict[int, int]:
        """Return how many rows of every committed chunk are, from the names of the commits alone."""
        with self._explained("list the commits"):
            keys = self._keys.list(self._ts.KvStore.KeyRange(_COMMITS, _COMMITS[:-1] + "0")).result()
        found: dict[int, int] = {}
        for key in sorted(keys):
            chunk, _, rows = key.decode().removeprefix(_COMMITS).partition(".")
            if chunk.isdigit() and rows.isdigit():  # others' files do not disturb
                found[int(chunk)] = max(found.get(int(chunk), 0), int(rows))
        return found

    def has(self, chunk: int) -> bool:
        """Whether all rows of a chunk are committed, perhaps by a writer who knows of more."""
        rows = self.rows(chunk)
        number: int = rows.stop - rows.start
        if number < self.chunk_rows:
            return self.committed().get(chunk, 0) >= number
        with self._explained(f"read the commit of chunk {chunk}"):
            return self._keys.read(_commit_of(chunk, number)).result().state != "missing"

    def sums(self, chunk: int, num_rows: int) -> dict[str, str]:
        """Return the sums that a chunk was committed with.

        Raises:
          DamageError: if the commit is not the one that was written.
          StoreError: if it cannot be read.
        """
        with self._explained(f"read the commit of chunk {chunk}"):
            text = self._keys.read(_commit_of(chunk, num_rows)).result().value
        try:
            commit = json.loads(text)
        except ValueError as error:
            raise DamageError(f"the commit of chunk {chunk} in {self.place} is not JSON: {error}") from error
        whole = isinstance(commit, dict) and commit.get("of_these") == _sum_of_text(commit.get("sha256"))
        if not whole:
            raise DamageError(
                f"the sums in the commit of chunk {chunk} in {self.place} are not those that were written"
            )
        sums: dict[str, str] = commit["sha256"]
        return sums

    def read_committed(self, chunk: int, num_rows: int, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Return the first rows of a committed chunk by array, checked against the sums in its commit.

        Args:
          chunk: number of the chunk.
          num_rows: how many rows were committed.
          names: of the arrays; by default all.

        Raises:
          DamageError: if they are not those that were committed, or are not there.
          StoreError: if they cannot be read; they may be whole.
        """
        sums, start, found = self.sums(chunk, num_rows), chunk * self.chunk_rows, {}
        for name in self.fields if names is None else names:
            rows = found[name] = self.read(name, start, start + num_rows)
            if self.fields[name].checked and sums.get(name) != _sum_of(rows):
                raise DamageError(f"the rows of {name} in chunk {chunk} of {self.place} are not those committed")
            if not self.fields[name].checked and np.isnan(rows).any():
                raise DamageError(f"rows of {name} in chunk {chunk} of {self.place} are missing")
        return found

    def damage(self, chunk: int, num_rows: int) -> str | None:
        """Say why the first rows of a committed chunk do not count, or return None if they do.

        Raises:
          StoreError: if they cannot be read, which is no damage.
        """
        try:
            self.read_committed(chunk, num_rows)
        except DamageError as error:
            return str(error)
        return None

    def drop(self, chunk: int) -> None:
        """Remove a chunk: first its commits, then its rows, whose rest a later writer would have to read."""
        with self._explained(f"remove chunk {chunk}"):
            first = f"{_COMMITS}{chunk:08d}."
            self._keys.delete_range(self._ts.KvStore.KeyRange(first, first[:-1] + "/")).result()
            for name, field in self.fields.items():
                self._keys.write("/".join([name, "c", str(chunk), *("0" for _ in field.shape)]), None).result()

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turn what tensorstore raises into an error that says what could not be done where."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            if isinstance(error, StoreError):
                raise
            damaged = any(sign in str(error) for sign in _SIGNS_OF_DAMAGE)
            kind = DamageError if damaged else StoreError
            raise kind(f"cannot {action} in {self.place}: {error}") from error


def _commit_of(chunk: int, num_rows: int) -> str:
    return f"{_COMMITS}{chunk:08d}.{num_rows}"


def _as_spec(place: str | PathLike[str] | dict[str, Any]) -> dict[str, Any] | str:
    if isinstance(place, dict):
        return place
    text = fspath(place)
    if "://" in text:
        return text if text.endswith("/") else f"{text}/"
    return {"driver": "file", "path": f"{Path(text).resolve()}/"}


def _metadata(field: Field, num_rows: int, chunk_rows: int) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [num_rows, *field.shape],
        "data_type": field.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *field.shape]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0 if np.dtype(field.dtype).kind in "biu" else "NaN",  # bfloat16 is of no kind
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }


def _sum_of_text(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _sum_of(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
