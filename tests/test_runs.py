"""Runs on disk: the rows of `jaxame.ame`, whatever happens to workers and files."""

import dataclasses
import json
import os
import resource
import signal
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore
from helpers import GRID, assert_same

from jaxame import estimate_ame, evaluation, runs
from jaxame.design import Beta, PointMass, TruncatedUniform, sample_design
from jaxame.games import Threshold
from jaxame.interrupts import stop_on_signals
from jaxame.laws import Grid, Law
from jaxame.store import Store, StoreError

M, N, CHUNK = 200, 12, 32
KEY = jax.random.key(4)
CHUNKS = -(-M // CHUNK)


@dataclasses.dataclass
class Noisy:
    """A game of two queries with noise of its own, that is not finite on some rows; counts what it is asked."""

    members: tuple[int, ...] = (1, 2, 3)
    num_sources: int = N
    asked: int = dataclasses.field(default=0, compare=False)

    @property
    def fingerprint(self):
        return {"members": list(self.members)}

    def __call__(self, keys, masks):
        self.asked += len(masks)
        exact = np.asarray(Threshold(N, list(self.members), 2)(None, masks))
        noise = np.asarray(jax.vmap(jax.random.normal)(keys), np.float32)[:, None]
        return np.where(noise > 2, np.nan, np.concatenate([exact, exact + noise], axis=1))


@pytest.fixture(scope="module")
def design():
    return sample_design(KEY, GRID, num_submodels=M, num_sources=N)


@pytest.fixture(scope="module")
def wanted(design):
    return evaluation.evaluate(Noisy(), design)


def start(place, game=None, **changes):
    options = {"key": KEY, "law": GRID, "num_submodels": M, "chunk_rows": CHUNK} | changes
    return runs.start(place, Noisy() if game is None else game, **options)


def stop_after(chunks):
    answers = iter([False] * chunks + [True])
    return lambda: next(answers)


def test_rows_are_those_of_the_design_in_memory(tmp_path, design, wanted):
    game, seen = Noisy(), []
    run = start(tmp_path, game)
    assert run.train(game, progress=lambda *step: seen.append(step)) == M
    assert seen[0] == ("train", CHUNK, M)
    assert seen[-1] == ("train", M, M)
    assert game.asked == M + 1  # one to learn the number of queries
    again = runs.open_run(tmp_path)
    assert again.train(game) == 0
    np.testing.assert_array_equal(again.utilities(), wanted)
    np.testing.assert_array_equal(again.utilities(40, 70), wanted[40:70])
    drawn = again.design()
    np.testing.assert_array_equal(drawn.packed, design.packed)
    np.testing.assert_array_equal(drawn.p, design.p)
    how_far = again.how_far()
    assert (how_far.done, how_far.total) == (M, M)
    assert how_far.rows_per_second > 0
    assert how_far.failures == {"SOME_NOT_FINITE": 0, "DIVERGED": int(np.isnan(wanted).all(axis=1).sum())}
    assert how_far.failures["DIVERGED"] > 0


def test_estimates_are_those_from_memory(tmp_path, design, wanted):
    game, options = Noisy(), {"copies": 0, "folds": 4}
    run = start(tmp_path, game)
    run.train(game, stopped=stop_after(4))
    with pytest.raises(ValueError, match=f"needs all {M} rows .* got {4 * CHUNK}"):
        run.estimate(**options)
    rows = slice(0, 4 * CHUNK)
    some = dataclasses.replace(design, p=design.p[rows], packed=design.packed[rows])
    found = run.estimate(partial=True, **options)
    np.testing.assert_array_equal(found.values, estimate_ame(some, wanted[rows], **options).values)
    run.train(game)
    about = runs.describe(game)["game"]
    assert_same(run.estimate(**options), estimate_ame(design, wanted, about=about, **options))


@pytest.mark.parametrize("paired", [False, True])
def test_shards_share_a_run(tmp_path, paired):
    law = TruncatedUniform(0.1)
    for number in (2, 0, 1):
        run = start(tmp_path, law=law, paired=paired, chunk_rows=15)
        run.train(Noisy(), chunks=run.shard(number, 3))
    design = sample_design(KEY, law, num_submodels=M, num_sources=N, paired=paired)
    np.testing.assert_array_equal(run.utilities(), evaluation.evaluate(Noisy(), design))
    np.testing.assert_array_equal(run.design().packed, design.packed)
    assert run.how_far().done == M
    with pytest.raises(ValueError, match="shard"):
        run.shard(3, 3)


def test_a_longer_run_keeps_its_rows(tmp_path, wanted):
    first = start(tmp_path, num_submodels=M - 30)
    first.train(Noisy(), stopped=stop_after(3))
    written = {path: path.read_bytes() for path in (tmp_path / "utilities" / "c").rglob("*") if path.is_file()}
    game = Noisy()
    longer = start(tmp_path, game)
    assert longer.train(game) == M - 3 * CHUNK == game.asked - 1
    np.testing.assert_array_equal(longer.utilities(), wanted)
    assert {path: path.read_bytes() for path in written} == written
    # The last chunk was full of 8 rows; they stay, and a sum of theirs serves until that of all is there.
    game, further = Noisy(), 10
    more = start(tmp_path, game, num_submodels=M + further)
    assert more.missing() == {CHUNKS - 1: M % CHUNK}
    assert more.train(game) == further
    np.testing.assert_array_equal(more.utilities(0, M), wanted)
    with pytest.raises(ValueError, match=f"at least the {M + further} submodels"):
        start(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"law": Grid((0.3, 0.5))}, r"law.points: \[.*\] in the run, \[0.3, 0.5\] here"),
        ({"key": jax.random.key(5)}, r"key: \[0, 4\] in the run, \[0, 5\] here"),
        ({"game": Noisy((1, 2, 4))}, r"game.members: \[1, 2, 3\] in the run, \[1, 2, 4\] here"),
        ({"paired": True}, "paired: False in the run, True here"),
        ({"law": None}, "law and num_submodels"),
        ({"chunk_rows": 0}, "chunk_rows"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, changes, message):
    start(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        start(tmp_path, **changes)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_another_game_is_refused_when_it_trains(tmp_path):
    run = start(tmp_path)
    with pytest.raises(ValueError, match=r"game\.members"):
        run.train(Noisy((1, 2, 4)))


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest.json"):
        runs.open_run(tmp_path / "nothing")
    start(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": 99}))
    for opening in (runs.open_run, start):
        with pytest.raises(ValueError, match=r"version 1, .* got \('jaxame.run', 99\)"):
            opening(tmp_path)
    path.write_text("{")
    with pytest.raises(StoreError, match=r"cannot read manifest.json"):
        runs.open_run(tmp_path)


def files_of(place: Path, chunk: int) -> list[Path]:
    return sorted(
        path
        for path in place.rglob("*")
        if path.is_file() and (f"c/{chunk}" in str(path) or path.name.startswith(f"{chunk:08d}."))
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


DAMAGE = {"flip": flip, "truncate": lambda path: os.truncate(path, path.stat().st_size // 2), "remove": Path.unlink}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_found_and_mended_and_nothing_else_is_lost(tmp_path, how, wanted, caplog):
    game = Noisy()
    start(tmp_path, game).train(game)
    last = CHUNKS - 1
    assert [path.parts[-3] for path in files_of(tmp_path, 1) if path.parts[-2] != "commits"] != []
    for chunk in (1, last):
        number = M % CHUNK if chunk == last else CHUNK
        for path in files_of(tmp_path, chunk):
            assert len(files_of(tmp_path, chunk)) == 5
            DAMAGE[how](path)
            caplog.clear()
            run = runs.open_run(tmp_path)
            if how == "remove" and path.parent.name == "commits":  # never happened
                assert run.train(game) == number
                continue
            assert run.missing() == {chunk: 0}
            assert f"chunk {chunk} of" in caplog.text
            assert run.train(game) == number
            np.testing.assert_array_equal(run.utilities(), wanted)
    assert runs.open_run(tmp_path).missing() == {}


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_reading_leaves_what_is_damaged_to_training(tmp_path, design, wanted, caplog):
    game = Noisy()
    start(tmp_path, game).train(game)
    flip(tmp_path / "utilities" / "c" / "1" / "0")
    flip(tmp_path / "commits" / f"{2:08d}.{CHUNK}")
    before, run = contents(tmp_path), runs.open_run(tmp_path)
    kept = np.delete(np.arange(M), np.arange(CHUNK, 3 * CHUNK))
    found, utilities = run.finished(partial=True)
    np.testing.assert_array_equal(utilities, wanted[kept])
    np.testing.assert_array_equal(found.packed, design.packed[kept])
    assert "chunk 1 of" in caplog.text
    assert "counts as missing" in caplog.text
    np.testing.assert_array_equal(run.rows()["submodel"], kept)
    with pytest.raises(ValueError, match=f"needs all {M} rows .* got {M - 2 * CHUNK}"):
        run.finished()
    assert contents(tmp_path) == before
    assert run.train(game) == 2 * CHUNK
    np.testing.assert_array_equal(run.finished()[1], wanted)


def test_what_cannot_be_read_for_now_is_not_damaged(tmp_path, wanted):
    game = Noisy()
    run = start(tmp_path, game)
    run.train(game)
    before, limits = contents(tmp_path), resource.getrlimit(resource.RLIMIT_NOFILE)
    for path in ("utilities/c/1/0", f"commits/{1:08d}.{CHUNK}"):
        (tmp_path / path).rename(tmp_path / "away")
        (tmp_path / path).symlink_to(tmp_path / path)  # too many levels of symbolic links
        for use in (run.missing, lambda: run.train(game), lambda: run.finished(partial=True)):
            with pytest.raises(StoreError, match="cannot read"):
                use()
        (tmp_path / path).unlink()
        (tmp_path / "away").rename(tmp_path / path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(StoreError, match="Too many open files"):
            run._store.damage(1, CHUNK)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert contents(tmp_path) == before
    assert runs.open_run(tmp_path).train(game) == 0
    np.testing.assert_array_equal(run.utilities(), wanted)


@pytest.mark.parametrize("given", [False, True])
def test_a_run_that_another_extended_is_whole(tmp_path, given):
    designs = [sample_design(KEY, GRID, num_submodels=m, num_sources=N) for m in (M, M + 10)]
    of = [{"law": None, "num_submodels": None, "design": each} for each in designs]
    first, longer = of if given else ({}, {"num_submodels": M + 10})
    run, late = start(tmp_path, **first), start(tmp_path, **first)
    start(tmp_path, **longer).train(Noisy())
    before = contents(tmp_path)
    assert run.missing() == {}
    assert run.train(Noisy()) == 0
    assert (run.how_far().done, len(run.rows()["submodel"])) == (M, M)
    np.testing.assert_array_equal(run.finished()[0].packed, designs[0].packed)
    late._compute(Noisy(), CHUNKS - 1, 0)  # looked before the other was done
    assert contents(tmp_path) == before
    assert runs.open_run(tmp_path).missing() == {}


@pytest.mark.parametrize(("array", "how"), [("seconds", "truncate"), ("seconds", "remove"), ("status", "flip")])
def test_how_far_leaves_out_what_it_cannot_read(tmp_path, array, how):
    run = start(tmp_path)
    run.train(Noisy())
    DAMAGE[how](next((tmp_path / array / "c").iterdir()))
    how_far = run.how_far()
    assert how_far.done in (M - CHUNK, M - M % CHUNK)
    assert how_far.rows_per_second > 0
    assert run.train(Noisy()) == M - how_far.done
    assert run.how_far().done == M


@pytest.mark.parametrize("array", ["p", "seconds", "status", "utilities"])
def test_tables_have_no_row_that_is_damaged(tmp_path, array, wanted, caplog):
    run = start(tmp_path)
    run.train(Noisy())
    path = next(path for path in sorted((tmp_path / array).rglob("*")) if "c" in path.parts and path.is_file())
    chunk = int(path.relative_to(tmp_path / array / "c").parts[0])
    path.unlink()
    kept = np.delete(np.arange(M), np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, M)))
    rows = run.rows()
    np.testing.assert_array_equal(rows["submodel"], kept)
    np.testing.assert_array_equal(rows["utility_1"], wanted[kept, 1])
    np.testing.assert_array_equal(rows["status"] == "OK", np.isfinite(wanted[kept]).all(axis=1))
    assert f"chunk {chunk} of" in caplog.text


def test_any_changed_byte_of_a_commit_is_found(tmp_path):
    run = start(tmp_path, num_submodels=CHUNK)
    run.train(Noisy())
    (path,) = (tmp_path / "commits").iterdir()
    content = path.read_bytes()
    assert {"masks", "p", "status", "utilities"} == set(json.loads(content)["sha256"])
    store = run._store
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        harmless = json.loads(changed) == json.loads(content) if _is_json(changed) else False
        assert harmless or store.damage(0, CHUNK) is not None, (place, changed)


def _is_json(content):
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def test_a_chunk_that_is_not_committed_does_not_count(tmp_path, monkeypatch, wanted):
    run, game = start(tmp_path), Noisy()
    with monkeypatch.context() as patched:
        patched.setattr("jaxame.store.json.dumps", lambda _: 1 / 0)  # after the arrays, before the commit
        with pytest.raises(ZeroDivisionError):
            run.train(game)
    assert files_of(tmp_path, 0)
    assert run.how_far().done == 0
    assert runs.open_run(tmp_path).train(game) == M
    np.testing.assert_array_equal(run.utilities(), wanted)


def test_of_two_writers_the_first_stands(tmp_path):
    fields = {"utilities": runs.Field((2,), "float32"), "seconds": runs.Field((), "float32", checked=False)}
    stores = [Store(tmp_path) for _ in range(2)]
    for store in stores:
        store.define(fields, 5, 4)
    rows = {"utilities": np.ones((4, 2), np.float32)}
    won = [store.write(0, rows | {"seconds": np.full(4, t, np.float32)}) for t, store in enumerate(stores)]
    assert won == [True, False]
    for store in stores:
        assert store.has(0)
        assert store.committed() == {0: 4}
        assert store.damage(0, 4) is None
        np.testing.assert_array_equal(store.read("utilities", 0, 4), rows["utilities"])


def test_a_worker_does_not_repeat_what_another_did_meanwhile(tmp_path):
    run, game, other = start(tmp_path), Noisy(), Noisy()
    run.train(game, progress=lambda *_: runs.open_run(tmp_path).train(other))
    assert (game.asked, other.asked) == (CHUNK, M - CHUNK)


@pytest.mark.parametrize("there", [False, True])
def test_of_two_starts_at_once_the_first_stands(tmp_path, monkeypatch, there):
    if there:
        start(tmp_path, num_submodels=M - 100)
    write = Store.write_manifest

    def late(self, *args):
        monkeypatch.setattr(Store, "write_manifest", write)
        start(tmp_path)
        return write(self, *args)

    monkeypatch.setattr(Store, "write_manifest", late)
    if there:
        with pytest.raises(ValueError, match=f"at least the {M} submodels"):
            start(tmp_path, num_submodels=M - 50)
    else:
        assert start(tmp_path, chunk_rows=10).manifest["chunk_rows"] == CHUNK
    assert Store(tmp_path).read_manifest()["num_submodels"] == M
    shape = json.loads((tmp_path / "utilities" / "zarr.json").read_text())["chunk_grid"]["configuration"]["chunk_shape"]
    assert shape == [CHUNK, 2]


@dataclasses.dataclass(frozen=True)
class Typed:
    """The share of sources that are in, where there are enough of them, of one type; of another for its first row."""

    first: str
    then: str
    least: int = 0
    num_sources: int = N

    def __call__(self, keys, masks):
        share = np.asarray(masks).mean(axis=1, keepdims=True)
        share[np.asarray(masks).sum(axis=1) < self.least] = np.nan
        dtype = self.first if len(share) == 1 else self.then
        return share.astype(dtype) if dtype in ("float16", "float32", "float64") else np.asarray(share > 2, dtype)


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        ("int64", "float64", "float64"),
        ("bool", "float32", "float64"),
        ("int32", "int32", "float64"),
        ("float32", "float16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float32", "float64", None),
        ("float32", "int64", None),
    ],
)
def test_utilities_are_kept_as_they_are_or_refused(tmp_path, first, then, kept):
    game = Typed(first, then, least=5)
    run = start(tmp_path, game)
    if kept is None:
        with pytest.raises(ValueError, match=f"needs utilities that {first} holds, .* got {then}"):
            run.train(game)
        return
    assert run.manifest["dtype"] == kept
    run.train(game, stopped=stop_after(2))
    assert np.isnan(run.utilities(2 * CHUNK, M).astype(float)).all()
    masks, rows = np.asarray(run.design().masks(0, 2 * CHUNK)), run.rows()
    np.testing.assert_array_equal(run.utilities(0, 2 * CHUNK), game(None, masks))
    if then.startswith("float"):
        np.testing.assert_array_equal(rows["status"] == "DIVERGED", masks.sum(axis=1) < 5)
        assert run.how_far().failures["DIVERGED"] > 0


def test_utilities_that_are_no_real_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs utilities that are real numbers; got complex64"):
        start(tmp_path, Typed("complex64", "complex64"))
    assert contents(tmp_path) == {}


@dataclasses.dataclass(frozen=True)
class Own(Law):
    """A law of a user's own."""

    p: float = 0.4

    def quadrature(self):
        return np.array([self.p]), np.array([1.0])


@pytest.mark.parametrize(
    "law", [Beta(2, 3, 0.1), Grid((0.2, 0.5), (0.4, 0.6)), PointMass(0.3), TruncatedUniform(0.02), Own()]
)
def test_laws_are_kept(tmp_path, law):
    start(tmp_path, law=law)
    own = isinstance(law, Own)
    assert runs.open_run(tmp_path, law if own else None).law == law
    if own:
        with pytest.raises(ValueError, match="the law of the run as an argument"):
            runs.open_run(tmp_path)
        with pytest.raises(ValueError, match=r"law.repr: Own\(p=0.4\) in the run, Own\(p=0.5\) here"):
            runs.open_run(tmp_path, Own(0.5))


def test_a_design_from_elsewhere_is_kept(tmp_path, design, wanted):
    elsewhere = dataclasses.replace(design, key=None)
    own = {"law": None, "num_submodels": None, "design": elsewhere}
    start(tmp_path, **own).train(Noisy())
    run = runs.open_run(tmp_path)
    np.testing.assert_array_equal(run.utilities(), wanted)
    kept = run.design()
    assert kept.key is None
    np.testing.assert_array_equal(kept.packed, design.packed)
    np.testing.assert_array_equal(kept.p, design.p)
    flip(tmp_path / "design" / "masks" / "c" / "2" / "0")
    with pytest.raises(StoreError, match="masks"):
        runs.open_run(tmp_path).design()


def given_as(design, **changes):
    return {"law": None, "num_submodels": None, "design": design} | changes


def test_another_design_is_refused_before_anything_is_written(tmp_path, design):
    start(tmp_path / "given", **given_as(design)).train(Noisy())
    start(tmp_path / "drawn")
    before = contents(tmp_path)
    others = [sample_design(jax.random.key(7), GRID, num_submodels=m, num_sources=N) for m in (M, M + 40)]
    others.append(dataclasses.replace(design, p=design.p.at[M - 1].set(0.5)))
    for other in others:
        with pytest.raises(ValueError, match=f"needs a design that starts with the {M} rows of the one kept"):
            start(tmp_path / "given", **given_as(other))
    with pytest.raises(ValueError, match="drawn: True in the run, False here"):
        start(tmp_path / "drawn", **given_as(design))
    with pytest.raises(ValueError, match="drawn: False in the run, True here"):
        start(tmp_path / "given")
    for contradicting in ({"coding": "ame"}, {"paired": True}):
        with pytest.raises(ValueError, match=r"needs coding 'weighted' and paired=False of the design, or neither"):
            start(tmp_path / "new", **given_as(design, **contradicting))
    assert contents(tmp_path) == before


def test_a_given_design_may_become_longer(tmp_path, design):
    start(tmp_path, **given_as(design)).train(Noisy())
    longer = sample_design(KEY, GRID, num_submodels=M + 40, num_sources=N)
    run = start(tmp_path, **given_as(longer, coding=design.coding))
    assert run.train(Noisy()) == 40
    np.testing.assert_array_equal(runs.open_run(tmp_path).design().packed, longer.packed)
    with pytest.raises(ValueError, match=f"at least the {M + 40} submodels"):
        start(tmp_path, **given_as(design))
    # One that was started before its sum was in the manifest.
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["design"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="a design that starts with"):
        start(tmp_path, **given_as(sample_design(jax.random.key(7), GRID, num_submodels=M + 40, num_sources=N)))
    assert start(tmp_path, **given_as(longer)).missing() == {}


@pytest.mark.parametrize("array", ["p", "masks"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_given_design_is_never_read_wrong(tmp_path, design, array, how, wanted):
    run = start(tmp_path, **given_as(design))
    run.train(Noisy(), stopped=stop_after(1))
    place = tmp_path / "design" / array / "c" / "2"
    DAMAGE[how](place if array == "p" else place / "0")
    for use in (lambda: run.train(Noisy()), run.design, lambda: run.finished(partial=True)):
        with pytest.raises(StoreError, match="the design that was given is not whole; start the run with it again"):
            use()
    run = start(tmp_path, **given_as(design))
    run.train(Noisy())
    np.testing.assert_array_equal(run.finished()[1], wanted)


def test_masks_that_are_drawn_otherwise_are_refused(tmp_path, monkeypatch):
    run = start(tmp_path)
    run.train(Noisy(), stopped=stop_after(2))
    draw = runs.draw_rows
    monkeypatch.setattr(runs, "draw_rows", lambda key, *rest, **own: draw(jax.random.key(9), *rest, **own))
    for use in (lambda: run.train(Noisy()), run.design, run.rows):
        with pytest.raises(ValueError, match=r"needs the masks of chunk 0 .* as they were drawn under jax"):
            use()


def test_errors_of_the_disk_are_told_and_leave_what_is_done(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot .* in .*file/run"):
        start(tmp_path / "file" / "run")
    run, game = start(tmp_path / "run"), Noisy()
    run.train(game, stopped=stop_after(2))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot write chunk 2 in"):
            run.train(game)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    again = runs.open_run(tmp_path / "run")
    assert again.how_far().done == 2 * CHUNK
    assert again.train(game) == M - 2 * CHUNK


def test_signals_stop_between_chunks_and_the_second_at_once():
    handler = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_other_readers_of_zarr_find_the_arrays(tmp_path, wanted):
    start(tmp_path, num_submodels=M - 10).train(Noisy())
    start(tmp_path).train(Noisy())
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/utilities/"}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), wanted)
    (tmp_path / "utilities" / "zarr.json").write_text("nothing")
    np.testing.assert_array_equal(runs.open_run(tmp_path).utilities(), wanted)


def test_a_bucket_will_do_for_a_folder(wanted):
    """Through tensorstore's other driver that is always there."""
    context = tensorstore.Context()
    run, game = start(Store({"driver": "memory", "path": "run/"}, context)), Noisy()
    run.train(game, stopped=stop_after(3))
    assert runs.open_run(Store({"driver": "memory", "path": "run/"}, context)).train(game) == M - 3 * CHUNK
    np.testing.assert_array_equal(run.utilities(), wanted)


@pytest.mark.slow
def test_a_huge_run_is_read_slice_by_slice(tmp_path):
    size = 10**6

    def share(keys, masks):
        del keys
        return np.asarray(masks).mean(axis=1, keepdims=True)

    share.num_sources = size
    run = start(tmp_path, share, num_submodels=size, chunk_rows=16)
    run.train(share, chunks=[0, 1000])
    tracemalloc.start()
    again = runs.open_run(tmp_path)
    how_far, rows = again.how_far(), again.utilities(16_000, 16_016)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (how_far.done, how_far.total) == (32, size)
    assert np.isin(np.round(rows, 2), GRID.points).all()
    assert np.isnan(again.utilities(500_000, 500_100)).all()
    assert peak < 5e6
