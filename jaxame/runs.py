"""Runs on disk: submodels are trained once, by any number of workers, and stay.

A run is a design, a game and what the game gave for the rows that are done. The design is drawn anew wherever it is
needed, from the key and the law in the manifest; the sums of its masks are kept. Every chunk of rows is computed by
whoever comes first (`Run.train`) and counts once it is whole on disk (`jaxame.store`), so a worker that is killed costs
the chunk in hand.
"""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks, environment
from jaxame.attribution import Attribution
from jaxame.design import Design, draw_rows, sample_design
from jaxame.estimators import Options, estimate_ame
from jaxame.evaluation import Game, call, game_keys, rows_per_call
from jaxame.fingerprint import sum_of_arrays
from jaxame.kept import answer
from jaxame.laws import Law
from jaxame.manifest import (
    COMPARED,
    FORMAT,
    VERSION,
    describe,
    law_from_json,
    law_to_json,
    require_readable,
    require_same,
    require_tile,
)
from jaxame.store import DamageError, Field, Store, StoreError
from jaxame.types import Progress, SubmodelStatus, silent, submodel_status, tell, tell_utilities

Place = str | PathLike[str] | dict[str, Any] | Store
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HowFar:
    """How far a run is.

    Attributes:
      done: rows that count.
      total: `M`.
      rows_per_second: of one worker, from the times of the rows that are done; 0 if none is.
      failures: number of rows by the name of their `SubmodelStatus`, other than OK.
    """

    done: int
    total: int
    rows_per_second: float
    failures: dict[str, int]


class Run:
    """A run that was started; see `start` and `open_run`.

    Args:
      store: where it is.
      manifest: what is run, as `start` wrote it.
      law: the target law.

    Attributes:
      manifest: as given; JSON-serialisable.
      law: likewise.
    """

    def __init__(self, store: Store, manifest: dict[str, Any], law: Law):
        self.manifest, self.law, self._store = manifest, law, store
        self._key = jax.random.wrap_key_data(jnp.array(manifest["key"], jnp.uint32), impl=manifest["impl"])
        sizes = manifest["num_submodels"], manifest["chunk_rows"]
        fields = {
            "utilities": Field((manifest["num_queries"],), manifest["dtype"]),
            "p": Field((), "float32"),
            "status": Field((), "uint8"),
            "seconds": Field((), "float32", checked=False),
        }
        fields |= {name: Field(tuple(shape), "float32") for name, shape in manifest["kept"].items()}
        store.define(fields, *sizes)
        self._given = None if manifest["drawn"] else _given(store, self.num_sources, sizes)

    @property
    def num_submodels(self) -> int:
        """`M`, whether done or not."""
        number: int = self.manifest["num_submodels"]
        return number

    @property
    def num_sources(self) -> int:
        """`N`."""
        number: int = self.manifest["num_sources"]
        return number

    @property
    def place(self) -> str:
        """Where the run is."""
        return self._store.place

    def shard(self, number: int, of: int) -> range:
        """Return every `of`-th chunk, from the `number`-th on, so that as many workers share the run.

        Raises:
          ValueError: unless `0 <= number < of`.
        """
        checks.require(0 <= number < of, "a shard (i, n) with 0 <= i < n", (number, of))
        return range(number, self._store.num_chunks, of)

    def missing(self, chunks: Iterable[int] | None = None) -> dict[int, int]:
        """Return the chunks that are not done and the rows that count in each, after a look at all that should be done.

        A chunk that is damaged is reported as a warning, and does not count; `train` computes it again.

        Args:
          chunks: look at these only.

        Raises:
          StoreError: if one cannot be read, which is no damage.
        """
        return self._missing(chunks, mend=False)

    def _missing(self, chunks: Iterable[int] | None, mend: bool) -> dict[int, int]:
        """Do as `missing` says; remove what is damaged if it is to be computed again."""
        committed, missing = self._store.committed(), {}
        for chunk in self.shard(0, 1) if chunks is None else chunks:
            found = committed.get(chunk, 0)
            damage = self._store.damage(chunk, found) if found else None
            if damage is not None:
                then = "is computed again" if mend else "counts as missing"
                log.warning("chunk %d of %s is damaged and %s: %s", chunk, self.place, then, damage)
                if mend:
                    self._store.drop(chunk)
                found = 0
            if found < self._num_rows(chunk):
                missing[chunk] = found
        return missing

    def train(
        self,
        game: Game,
        *,
        chunks: Iterable[int] | None = None,
        progress: Progress = silent,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Compute the chunks that are missing.

        Args:
          game: the same as the one that the run was started with.
          chunks: only these, such as a `shard`; by default all.
          progress: called after every chunk with the rows that are done, of all.
          stopped: asked before every chunk whether to stop.

        Returns:
          rows computed.

        Raises:
          ValueError: if the game is another one, naming the differences; if the masks drawn here are not those that
            were drawn before; and if the game's tile became smaller.
          StoreError: if something cannot be read or written. Chunks that are done stay.
        """
        require_same(self.manifest, describe(game), self.place)
        missing = self._missing(chunks, mend=True)
        done = sum(min(number, self._num_rows(chunk)) for chunk, number in self._committed().items())
        self._check_some_masks()
        computed = 0
        tell(progress, "train", start=done, total=self.num_submodels)
        for chunk, kept in missing.items():
            if stopped():
                break
            if not self._store.has(chunk):  # no other worker was faster
                utilities = self._compute(game, chunk, kept)
                computed += len(utilities)
                tell_utilities(progress, utilities, game)
            done += self._num_rows(chunk) - kept
            progress("train", done, self.num_submodels)
        return computed

    def design(self) -> Design:
        """Draw the design, or read the one that was given, and check it against the chunks that are committed.

        Raises:
          ValueError: if the masks are not those that were trained on.
          StoreError: if the design that was given is damaged.
        """
        p, packed = self._draw(slice(0, self.num_submodels))
        for chunk, number in self._committed().items():
            start = chunk * self._store.chunk_rows
            own = packed[start : start + number] if number <= self._num_rows(chunk) else None
            with contextlib.suppress(DamageError):  # such a chunk does not count
                self._check_masks(chunk, number, own)
        key = self._key if self._given is None else None
        options = self.manifest["coding"], self.manifest["paired"]
        return Design(p, packed, key, self.num_sources, self.law, *options)

    def utilities(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return utilities `[stop-start, Q]` of some rows, not checked; NaN where a row was never written."""
        return self._store.read("utilities", start, self.num_submodels if stop is None else stop)

    def estimate(
        self,
        utilities: np.ndarray | None = None,
        *,
        partial: bool = False,
        progress: Progress = silent,
        **options: Unpack[Options],
    ) -> Attribution:
        """Estimate average marginal effects from what is done.

        Args:
          utilities: `[M, Q]` as from `ask`; by default those that the submodels were trained for.
          partial: do so from the rows that are done; otherwise all must be.
          progress: called as each stage moves on.
          **options: see `jaxame.estimate_ame`.

        Raises:
          ValueError: if rows are missing, saying how many; and as `estimate_ame` does.
        """
        design, utilities = self.finished(utilities, partial=partial)
        return estimate_ame(design, utilities, about=self.manifest["game"], progress=progress, **options)

    def finished(self, utilities: np.ndarray | None = None, *, partial: bool = False) -> tuple[Design, np.ndarray]:
        """Return what an estimate rests on: the design of the `m` rows that are done, and their utilities `[m, Q]`.

        Args:
          utilities: `[M, Q]` as from `ask`; by default those that the submodels were trained for.
          partial: whether rows may be missing.

        Raises:
          ValueError: if rows are missing that may not be, saying how many.
        """
        missing = self._require_done(partial)
        whole = [self._store.rows(chunk) for chunk in self.shard(0, 1) if chunk not in missing]
        kept = np.zeros(self.num_submodels, bool)
        for rows in whole:
            kept[rows] = True
        design = self.design()
        design = dataclasses.replace(design, p=design.p[kept], packed=design.packed[kept])
        if utilities is not None:
            return design, utilities[kept]
        parts = [self.utilities(rows.start, rows.stop) for rows in whole]  # what is damaged cannot be read
        return design, np.concatenate([self.utilities(0, 0), *parts])

    def _require_done(self, partial: bool) -> dict[int, int]:
        """Return what is missing; refuse it, unless the rows that are done will do."""
        missing, total = self.missing(), self.num_submodels
        needs = f"all {total} rows of {self.place}: go on with the run, or take partial=True"
        checks.require(partial or not missing, needs, f"{total - sum(map(self._num_rows, missing))}")
        return missing

    def ask(self, query: Any, game: Any, *, partial: bool = True) -> np.ndarray:
        """Measure another query on the submodels that are done, from what was kept of them, without training.

        Args:
          query: see `jaxame.kept.answer`.
          game: the one that trained them, which may have another query.
          partial: whether rows may be missing.

        Returns:
          utilities `[M, Q]`, for `jaxame.estimate_ame(run.design(), ...)`; NaN where a row is not done.

        Raises:
          ValueError: for another game, naming the differences; if what was kept does not tell; and if no row is done,
            or rows are missing that may not be.
        """
        own, known = describe(game), dict(self.manifest)
        for each in (own, known):
            each["game"] = {name: part for name, part in each["game"].items() if name != "query"}
        require_same(known, own, self.place)
        needs = "a run of a game that keeps something, see keep= of TrainingGame"
        checks.require(bool(self.manifest["kept"]), needs, f"{self.place}, which keeps utilities only")
        missing = self._require_done(partial)
        found: dict[int, np.ndarray] = {}
        for chunk in self.shard(0, 1):
            first, number = self._store.rows(chunk).start, missing.get(chunk, self._num_rows(chunk))
            if number:
                kept = {name: self._store.read(name, first, first + number) for name in self.manifest["kept"]}
                found[first] = answer(query, game, kept)
        checks.require(bool(found), f"rows of {self.place} that are done", "none")
        some = next(iter(found.values()))
        utilities = np.full((self.num_submodels, some.shape[1]), np.nan, some.dtype)
        for first, part in found.items():
            utilities[first : first + len(part)] = part
        return utilities

    def how_far(self) -> HowFar:
        """Say how far the run is, from the commits, and the status and seconds of their rows.

        A chunk in which these are damaged is reported as a warning, and does not count.

        Raises:
          StoreError: if they cannot be read, which is no damage.
        """
        done, seconds, failures = 0, 0.0, np.zeros(len(SubmodelStatus), int)
        for _, _, own in self._counting("seconds", "status"):
            done += len(own["status"])
            seconds += float(own["seconds"].sum(dtype=np.float64))
            failures += np.bincount(own["status"], minlength=failures.size)
        named = {status.name: int(failures[status]) for status in SubmodelStatus if status != SubmodelStatus.OK}
        return HowFar(done, self.num_submodels, done / seconds if seconds else 0.0, named)

    def _counting(self, *names: str) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """Yield of every chunk that is done its number, how many rows are committed, and its rows of some arrays.

        One with damage in these arrays is reported as a warning and left out.
        """
        for chunk, number in self._committed().items():
            try:
                arrays = self._store.read_committed(chunk, number, names)
            except DamageError as error:
                log.warning("chunk %d of %s is damaged and counts as missing: %s", chunk, self.place, error)
                continue
            yield chunk, number, {name: rows[: self._num_rows(chunk)] for name, rows in arrays.items()}

    def _committed(self) -> dict[int, int]:
        """Rows committed of the chunks of this run: in the last more than it has, if another process extended it."""
        found = sorted(self._store.committed().items())
        return {chunk: number for chunk, number in found if chunk < self._store.num_chunks}

    def rows(self) -> dict[str, np.ndarray]:
        """Return a table of the rows that are done, by column, which `jaxame.interop.from_table` reads.

        Columns: submodel, its number; p; status; seconds; utility_0 and so on, by query; mask, bool `[m, N]`; and of
        all rows alike law (JSON), coding and paired.

        Raises:
          ValueError: if the masks are not those that were trained on.
          StoreError: if something cannot be read. A chunk that is damaged is reported as a warning and left out.
        """
        names = "p", "status", "seconds", "utilities"
        numbers, packed = [np.zeros(0, int)], [np.zeros((0, -(-self.num_sources // 8)), np.uint8)]
        parts = [{name: self._store.read(name, 0, 0) for name in names}]
        for chunk, number, rows in self._counting(*names):
            parts.append(rows)
            numbers.append(chunk * self._store.chunk_rows + np.arange(len(rows["p"])))
            packed.append(self._check_masks(chunk, number)[: len(rows["p"])])
        own = {name: np.concatenate([part[name] for part in parts]) for name in names}
        own["status"] = np.array([SubmodelStatus(code).name for code in own["status"]], str)
        utilities = {f"utility_{q}": u for q, u in enumerate(own.pop("utilities").T)}
        alike = {"law": json.dumps(self.manifest["law"])}
        alike |= {name: self.manifest[name] for name in ("coding", "paired")}
        return (
            {"submodel": np.concatenate(numbers)}
            | own
            | utilities
            | {"mask": self._unpack(np.concatenate(packed))}
            | {name: np.full(len(own["p"]), value) for name, value in alike.items()}
        )

    def _unpack(self, packed: Any) -> np.ndarray:
        """Masks bool `[m, N]`."""
        return np.unpackbits(np.asarray(packed), axis=1, count=self.num_sources, bitorder="little").astype(bool)

    def _num_rows(self, chunk: int) -> int:
        rows = self._store.rows(chunk)
        return int(rows.stop - rows.start)

    def _draw(self, rows: slice) -> tuple[Any, Any]:
        """`p` and packed masks of some rows."""
        if self._given is not None:
            return self._read_given(self._given, rows)
        options = {name: self.manifest[name] for name in ("num_sources", "coding", "paired")}
        return draw_rows(self._key, self.law, rows.start, rows.stop, **options)

    def _read_given(self, given: Store, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """`p` and packed masks of some rows of the design that was given, checked against their sums."""
        size, end = given.chunk_rows, max(rows.stop, self.num_submodels)
        first = rows.start // size
        try:
            chunks = range(first, -(-rows.stop // size))
            parts = [given.read_committed(chunk, min(size, end - chunk * size)) for chunk in chunks]
        except DamageError as error:
            raise StoreError(f"the design that was given is not whole; start the run with it again: {error}") from error
        own = slice(rows.start - first * size, rows.stop - first * size)
        p, packed = (np.concatenate([part[name] for part in parts])[own] for name in ("p", "masks"))
        return p, packed

    def _check_some_masks(self) -> None:
        """Check the masks of one chunk: another law, key or generator would draw others there, too."""
        for chunk, number in self._committed().items():
            with contextlib.suppress(DamageError):  # another worker will compute it again
                self._check_masks(chunk, number)
                return

    def _check_masks(self, chunk: int, number: int, packed: Any = None) -> np.ndarray:
        """Check the packed masks of the rows committed of a chunk, as they are drawn unless given, and return them."""
        start = chunk * self._store.chunk_rows
        packed = self._draw(slice(start, start + number))[1] if packed is None else packed
        same = self._store.sums(chunk, number).get("masks") == sum_of_arrays(packed)
        versions = self.manifest["versions"]["jax"], environment.versions()["jax"]
        needs = f"the masks of chunk {chunk} of {self.place} as they were drawn under jax {versions[0]}"
        checks.require(same, needs, f"others under jax {versions[1]}")
        return np.asarray(packed)

    def _compute(self, game: Game, chunk: int, kept: int) -> np.ndarray:
        """Compute, write and commit the rows of a chunk but for the first, which are `kept`; return their utilities."""
        rows = self._store.rows(chunk)
        p, packed = self._draw(rows)
        masks = self._unpack(packed)
        begin = time.perf_counter()
        size = rows_per_call(game)
        parts = [
            self._measure(game, masks[first : first + size], rows.start + first)
            for first in range(kept, len(masks), size)
        ]
        own = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        found, dtype = own["utilities"], self.manifest["dtype"]
        needs = f"utilities that {dtype} holds, as the first of {self.place} were"
        checks.require(np.can_cast(found.dtype, np.dtype(dtype)), needs, found.dtype)
        utilities = found.astype(dtype)
        seconds = np.full(len(utilities), (time.perf_counter() - begin) / len(utilities), np.float32)
        require_tile(game, self.manifest)
        status = submodel_status(found).astype(np.uint8)
        own |= {"utilities": utilities, "status": status, "seconds": seconds}
        old = {name: self._store.read(name, rows.start, rows.start + kept) for name in own}
        arrays = {name: np.concatenate([old[name], own[name]]) for name in own}
        self._store.write(chunk, arrays | {"p": np.asarray(p)}, {"masks": sum_of_arrays(packed)})
        return utilities

    def _measure(self, game: Any, masks: np.ndarray, first: int) -> dict[str, np.ndarray]:
        """Utilities of the rows from number `first` on, and what is kept of them, by name."""
        if not self.manifest["kept"]:
            return {"utilities": call(game, self._key, masks, first, self.manifest["num_queries"])}
        utilities, kept = game.measure(game_keys(self._key, first, len(masks)), masks)
        return {"utilities": utilities, **kept}


def start(
    place: Place,
    game: Game,
    *,
    key: jax.Array,
    law: Law | None = None,
    num_submodels: int | None = None,
    coding: str = "auto",
    paired: bool = False,
    design: Design | None = None,
    chunk_rows: int | None = None,
    made_by: dict[str, Any] | None = None,
) -> Run:
    """Start a run, or go on with the one that is there.

    A run that is there keeps its rows, and may become longer.

    Args:
      place: a folder, a URL of a bucket, a specification of a `tensorstore.KvStore`, or a `jaxame.store.Store`.
      game: see `jaxame.ame`.
      key: one typed key; decides everything, as in `jaxame.ame`.
      law: inclusion law; not with `design`.
      num_submodels: `M`, at least as many as there are; not with `design`.
      coding: see `jaxame.design.sample_design`; with `design` its own, if any.
      paired: likewise.
      design: one from elsewhere, whose masks are then kept, and whose first rows those of a run that is there must be;
        `key` is the game's.
      chunk_rows: rows that are committed together; by default as many as the game likes to be called with.
      made_by: how to make the game again, for `jaxame resume`; JSON-serialisable.

    Raises:
      ValueError: for bad arguments, and if what is there is another run, naming the differences.
      StoreError: if the place cannot be read or written.
    """
    given = design is not None
    needs = "law and num_submodels, or else a design"
    checks.require(given == (law is None) == (num_submodels is None), needs, f"law {law}, design given: {given}")
    if design is None:
        assert law is not None
        num_submodels = checks.count(num_submodels, "num_submodels", 3 if paired else 2)
        few = {"num_submodels": min(num_submodels, 4), "num_sources": game.num_sources}
        drawn = sample_design(key, law, coding=coding, paired=paired, **few)
    else:
        drawn, num_submodels, law = design, design.num_submodels, design.law
        checks.require(design.parent is None, "a design without parents", "a nested one")
        alike = coding in ("auto", design.coding) and paired in (False, design.paired)
        own = f"coding {design.coding!r} and paired={design.paired} of the design, or neither"
        checks.require(alike, own, f"coding {coding!r} and paired={paired}")
    size = rows_per_call(game) if chunk_rows is None else checks.count(chunk_rows, "chunk_rows")
    store = _store_at(place)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **_asked(law, key),
        "drawn": not given,
        "design": None if design is None else _sum_of_design(design.p, design.packed),
        "coding": drawn.coding,
        "paired": drawn.paired,
        "num_submodels": num_submodels,
        "num_sources": drawn.num_sources,
    }
    _require_longer(store.read_manifest(), manifest, store)  # before a row is computed
    first = call(game, key, drawn.masks(0, 1), 0, None)
    manifest |= {
        "num_queries": first.shape[1],
        "dtype": _kept_as(first.dtype),
        "kept": {name: list(shape) for name, shape in getattr(game, "kept_shapes", {}).items()},
        "chunk_rows": size + size % 2,  # pairs are not parted
        **describe(game),
        "made_by": made_by,
        "versions": environment.versions(),
    }
    while True:  # until no other process was faster
        known = store.read_manifest()
        wanted = manifest if known is None else _longer(known, manifest, design, law, store)
        run = Run(store, wanted, law)
        is_new = wanted != known
        if not is_new or store.write_manifest(wanted, known):
            break
    if is_new:
        store.write_metadata()
    if design is not None:
        _keep(design, store, wanted)
    return run


def require_startable(place: Place, *, key: jax.Array, law: Law, num_submodels: int, paired: bool = False) -> None:
    """Refuse, before a game is made, what `start` refuses for any game.

    Args:
      place: see `start`, as the others.
      key: of the run.
      law: inclusion law.
      num_submodels: `M`.
      paired: whether in antithetic pairs.

    Raises:
      ValueError: if `num_submodels` is too small, and if what is there is another run, naming the differences.
      StoreError: if the place cannot be read.
    """
    store = _store_at(place)
    number = checks.count(num_submodels, "num_submodels", 3 if paired else 2)
    wanted = {"drawn": True, "coding": law.preferred_coding, "paired": paired, "num_submodels": number}
    _require_longer(store.read_manifest(), _asked(law, key) | wanted, store)


def _store_at(place: Place) -> Store:
    return place if isinstance(place, Store) else Store(place)


def _asked(law: Law, key: jax.Array) -> dict[str, Any]:
    """Return what a manifest says of the law and the key."""
    data = np.asarray(jax.random.key_data(key)).tolist()
    return {"law": law_to_json(law), "key": data, "impl": str(jax.random.key_impl(key))}


def _kept_as(dtype: np.dtype) -> str:
    """Return the type that utilities are kept as: one that has NaN, for rows that are not done."""
    if dtype.kind in "biu":
        return "float64"
    checks.require(jnp.issubdtype(dtype, jnp.floating), "utilities that are real numbers", dtype)
    return dtype.name


def _sum_of_design(p: Any, packed: Any, stop: int | None = None) -> str:
    """Return a sum of the first rows of a design."""
    return sum_of_arrays((np.asarray(p, np.float32)[:stop], np.asarray(packed)[:stop]))


def _require_longer(known: dict[str, Any] | None, manifest: dict[str, Any], store: Store) -> None:
    """Refuse to make the run that is there, if any, into another or a shorter one."""
    if known is None:
        return
    require_readable(known, store.place)
    require_same(known, {name: manifest[name] for name in COMPARED if name in manifest}, store.place)
    enough = f"at least the {known['num_submodels']} submodels of {store.place}"
    checks.require(manifest["num_submodels"] >= known["num_submodels"], enough, manifest["num_submodels"])


def _longer(
    known: dict[str, Any], manifest: dict[str, Any], design: Design | None, law: Law, store: Store
) -> dict[str, Any]:
    """Return the manifest of the run that is there with as many submodels as are asked for; refuse another run."""
    _require_longer(known, manifest, store)
    longer = known | {"num_submodels": manifest["num_submodels"]}
    if design is None:
        return longer
    number = known["num_submodels"]
    kept = known.get("design") or _sum_of_design(*Run(store, known, law)._draw(slice(0, number)))
    same = kept == _sum_of_design(design.p, design.packed, number)
    checks.require(same, f"a design that starts with the {number} rows of the one kept in {store.place}", "another")
    return longer | {"design": manifest["design"]}


def open_run(place: Place, law: Law | None = None) -> Run:
    """Open a run that was started.

    Args:
      place: where it is.
      law: the run's, needed if it is not one of those in `jaxame.design`.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if there is something else, or a run of another version of the format, and for another law.
    """
    store = _store_at(place)
    manifest = store.read_manifest()
    if manifest is None:
        raise FileNotFoundError(f"needs a run in {store.place}; got no manifest.json there")
    require_readable(manifest, store.place)
    if law is None:
        law = law_from_json(manifest["law"])
    require_same(manifest, {"law": law_to_json(law)}, store.place)
    return Run(store, manifest, law)


def _given(store: Store, num_sources: int, sizes: tuple[int, int]) -> Store:
    """Return the store of a design from elsewhere."""
    below = store.below("design")
    below.define({"p": Field((), "float32"), "masks": Field((-(-num_sources // 8),), "uint8")}, *sizes)
    return below


def _keep(design: Design, store: Store, manifest: dict[str, Any]) -> None:
    """Keep the rows of a design from elsewhere, unless they are there and whole."""
    below = _given(store, design.num_sources, (manifest["num_submodels"], manifest["chunk_rows"]))
    below.write_metadata()
    p, packed = np.asarray(design.p, np.float32), np.asarray(design.packed)
    committed = below.committed()
    for chunk in range(below.num_chunks):
        number = committed.get(chunk, 0)
        if number and below.damage(chunk, number) is not None:
            below.drop(chunk)
        rows = below.rows(chunk)
        below.write(chunk, {"p": p[rows], "masks": packed[rows]})  # which leaves what is there
