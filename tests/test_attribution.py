"""The result: what it selects, what it says when something failed, and that it comes back from disk as it was."""

import dataclasses
import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
from helpers import COPIES, FOLDS, GRID, M, N, Q, assert_same

import jaxame
from jaxame.design import sample_design

DESIGNS, FDR = 8, 0.2
GREATER, LESS = [1, 4, 9], [2, 15]  # culprits of query 0
SECOND = [20, 21, 22]  # culprits of query 1


def estimate(seed):
    """Two queries with culprits of their own, in units a million apart, and four that are constant."""
    rng = np.random.default_rng(seed)
    design = sample_design(jax.random.key(seed), GRID, num_submodels=M, num_sources=N)
    effects = np.zeros((Q, N))
    effects[0, GREATER], effects[0, LESS], effects[1, SECOND] = 1.0, -1.0, -1.0
    noise = rng.normal(size=(M, Q)) * (np.arange(Q) < 2)
    utilities = (np.asarray(design.masks()) @ effects.T + noise) * 10.0 ** np.array([-3, 3, 0, 0, 0, 0])
    return jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=COPIES)


@pytest.fixture(scope="module")
def results():
    return [estimate(seed) for seed in range(DESIGNS)]


@pytest.fixture(scope="module")
def result(results):
    return results[0]


def without_copies(result):
    return dataclasses.replace(result, importance=np.zeros((Q, 1, 1, N)))


@pytest.mark.slow
def test_intervals_and_p_values_are_those_of_the_normal_distribution(result):
    lower, upper = result.interval(0.9)
    np.testing.assert_allclose((lower + upper) / 2, result.debiased, rtol=1e-9)
    np.testing.assert_allclose((upper - lower) / 2, 1.6448536 * result.stderr, rtol=1e-6)
    both, greater, less = (result.p_values(name) for name in ("two-sided", "greater", "less"))
    np.testing.assert_allclose(both, 2 * np.minimum(greater, less), atol=1e-12)
    assert both[0, GREATER + LESS].max() < 1e-6 < np.delete(both[0], GREATER + LESS).min()
    assert greater[0, GREATER].max() < 1e-6
    assert less[0, LESS].max() < 1e-6
    # An interval leaves 0 out where the p-value is below one less its level.
    np.testing.assert_array_equal((lower[:2] > 0) | (upper[:2] < 0), both[:2] < 0.1)
    np.testing.assert_array_equal(both[2:], 1.0)  # nothing moves a constant


def test_q_values_are_the_rates_at_which_benjamini_hochberg_selects(result):
    p, q = result.p_values(), result.q_values()
    for own, found in zip(p, q, strict=True):
        order = np.argsort(own)
        steps = own[order] * N / np.arange(1, N + 1)
        np.testing.assert_allclose(found[order], np.minimum(1, np.minimum.accumulate(steps[::-1])[::-1]))
    for rate in (0.01, 0.2):
        chosen = result.select(rate, 0, method="bh-approximate").indices
        np.testing.assert_array_equal(np.sort(chosen), np.flatnonzero(q[0] <= rate))


def test_what_needs_standard_errors_says_so(result):
    bare = dataclasses.replace(result, stderr=None)
    for ask in (bare.interval, bare.p_values):
        with pytest.raises(ValueError, match="needs standard errors"):
            ask()
    with pytest.raises(ValueError, match="alternative to be one of"):
        result.p_values("both")
    with pytest.raises(ValueError, match="level"):
        result.interval(1.0)


@pytest.mark.parametrize("has_stderr", [False, True])
def test_what_was_saved_comes_back_bit_for_bit(result, tmp_path, has_stderr):
    if not has_stderr:
        result = dataclasses.replace(result, stderr=None)
    path = tmp_path / "result"  # the file has exactly this name
    result.save(path)
    loaded = jaxame.load(path)
    assert_same(loaded, result)
    assert loaded.about == result.about
    assert (loaded.stderr is None) == (not has_stderr)
    again = tmp_path / "again.npz"
    loaded.save(str(again))
    assert_same(jaxame.load(str(again)), result)
    assert {file.name for file in tmp_path.iterdir()} == {"result", "again.npz"}


def test_what_is_saved_holds_no_pickle(result, tmp_path):
    result.save(tmp_path / "result.npz")
    with np.load(tmp_path / "result.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= set("biufU")
        assert json.loads(str(file["header"]))["format"] == "jaxame.Attribution"
    with pytest.raises(ValueError, match=r"pickle|Object arrays"):
        dataclasses.replace(result, values=result.values.astype(object)).save(tmp_path / "object.npz")


def save_arrays(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def save_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def save_truncated(path):
    save_arrays(path, header="{}", values=np.zeros((Q, N)))
    path.write_bytes(path.read_bytes()[:200])


def save_other_archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "no array")


CURRENT = '{"format": "jaxame.Attribution", "version": 1, "about": {}}'
OTHER_FILES = {
    "other arrays": lambda path: save_arrays(path, header='{"format": "numpy"}', values=np.zeros((Q, N))),
    "other version": lambda path: save_arrays(path, header=CURRENT.replace("1", "999")),
    "arrays missing": lambda path: save_arrays(path, header=CURRENT, values=np.zeros((Q, N))),
    "no header": lambda path: save_arrays(path, values=np.zeros((Q, N))),
    "header without fields": lambda path: save_arrays(path, header="[1]"),
    "header not JSON": lambda path: save_arrays(path, header="jaxame.Attribution"),
    "one array": save_array,
    "text": lambda path: path.write_text("source,value\n"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": save_truncated,
    "other archive": save_other_archive,
    "pickle": lambda path: path.write_bytes(pickle.dumps({"values": [1]})),
}


@pytest.mark.parametrize("write", OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_other_files_are_refused(tmp_path, write):
    path = tmp_path / "other.npz"
    write(path)
    with pytest.raises(ValueError, match=r"needs .*; got"):
        jaxame.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        jaxame.load(tmp_path / "none.npz")


def test_data_frame_has_a_row_per_query_and_source(result):
    frame = result.to_dataframe()
    statistic = [result.select(query=q).statistic for q in range(Q)]
    columns = {"value": result.values, "debiased": result.debiased, "stderr": result.stderr, "statistic": statistic}
    assert list(frame.columns) == ["query", "source", *columns]
    assert len(frame) == Q * N
    for name, wanted in columns.items():
        np.testing.assert_array_equal(frame.pivot(index="query", columns="source", values=name), wanted)
    bare = dataclasses.replace(without_copies(result), stderr=None)
    assert list(bare.to_dataframe().columns) == ["query", "source", "value", "debiased"]


def test_check_returns_the_result_or_names_every_failed_query(result):
    assert result.check() is result
    status = np.full(Q, jaxame.Status.OK)
    status[[1, 3, 4]] = [
        jaxame.Status.NOT_CONVERGED,
        jaxame.Status.LEFT_OUT_RELATED_TO_P,
        jaxame.Status.LEFT_OUT_RELATED_TO_SOURCE,
    ]
    failed = dataclasses.replace(result, status=status, num_left_out=np.arange(Q) * 10)
    with pytest.raises(RuntimeError) as error:
        failed.check()
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["query 1", "query 3", "query 4"]
    for line, reason in zip(lines, ("did not converge", "depend on p,", "depend on a source,"), strict=True):
        assert reason in line
    assert "(30 rows left out)" in lines[1]


def test_every_status_is_explained(result):
    for status in set(jaxame.Status) - {jaxame.Status.OK}:
        with pytest.raises(RuntimeError, match=r"query 0: .{20,}"):
            dataclasses.replace(result, status=np.full(Q, status)).check()


def test_selections_have_the_sign_asked_for(result):
    chosen = {name: set(result.select(FDR, alternative=name).indices) for name in ("two-sided", "greater", "less")}
    assert chosen["two-sided"] >= {*GREATER, *LESS}
    assert set(GREATER) <= chosen["greater"]
    assert not chosen["greater"] & set(LESS)
    assert set(LESS) <= chosen["less"]
    assert not chosen["less"] & set(GREATER)
    assert set(result.select(FDR, 1).indices) >= set(SECOND)
    np.testing.assert_array_equal(result.select(FDR, np.int64(1)).indices, result.select(FDR, 1).indices)


def test_most_important_sources_come_first(result):
    found = result.select(0.3, "all")
    assert (np.diff(found.statistic[found.indices]) <= 0).all()
    assert (found.statistic[found.indices] >= found.threshold).all()


def test_all_queries_together_find_the_union_at_the_level(results):
    """Mean false discovery proportion within three standard errors of the level, and all culprits found."""
    union = {*GREATER, *LESS, *SECOND}
    found = [set(result.select(FDR, "all").indices) for result in results]
    false = np.array([len(chosen - union) / max(1, len(chosen)) for chosen in found])
    assert false.mean() <= FDR + 3 * false.std(ddof=1) / np.sqrt(DESIGNS)
    assert np.mean([len(chosen & union) / len(union) for chosen in found]) > 0.95
    one_query = [set(result.select(FDR, 1).indices) for result in results]
    assert np.mean([len(chosen & union) / len(union) for chosen in one_query]) < 0.7


def test_nothing_selected_is_a_result(result):
    found = result.select(FDR, query=3)
    assert (found.indices.size, found.threshold, found.estimated_fdp) == (0, np.inf, 0.0)
    assert "no source was more important than its copies" in found.reason
    strict = result.select(0.01)
    assert strict.indices.size == 0
    assert "no fewer than 25 can be selected" in strict.reason


def test_groups_of_sources_that_stand_in_for_each_other():
    """Ten groups of two: either member has the whole effect. Means over designs, as above."""
    groups = np.minimum(np.arange(N) // 2, 11)
    effective = [0, 3, 5, 8]
    wrong, found = [], []
    for seed in range(DESIGNS):
        design = sample_design(jax.random.key(50 + seed), GRID, num_submodels=M, num_sources=N)
        masks = np.asarray(design.masks())
        either = masks[:, 0::2] | masks[:, 1::2]
        noise = np.random.default_rng(seed).normal(size=(M, Q))
        utilities = either[:, effective].sum(axis=1)[:, None] + noise * (np.arange(Q) < 1)
        result = jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=COPIES)
        chosen = set(result.select(FDR, groups=groups).indices.tolist())
        wrong.append(len(chosen - set(effective)) / max(1, len(chosen)))
        found.append(len(chosen & set(effective)) / len(effective))
    assert np.mean(wrong) <= FDR + 3 * np.std(wrong, ddof=1) / np.sqrt(DESIGNS)
    assert np.mean(found) > 0.9


def test_contrasts_are_queries_of_their_own(result):
    rng = np.random.default_rng(9)
    design = sample_design(jax.random.key(3), GRID, num_submodels=M, num_sources=N)
    utilities = np.asarray(design.masks())[:, :4] * 1.0 + 0.5 * rng.normal(size=(M, 4))
    utilities[5, 3] = np.nan
    weights = np.array([[1.0, -1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5]])
    result = jaxame.estimate_ame(design, utilities, contrasts=weights, folds=FOLDS, copies=COPIES)
    by_hand = np.concatenate([utilities, utilities @ weights.T], axis=1)
    by_hand[:, 4] = utilities[:, 0] - utilities[:, 1]
    assert_same(result, jaxame.estimate_ame(design, by_hand, folds=FOLDS, copies=COPIES))
    assert result.num_left_out.tolist() == [0, 0, 0, 1, 0, 1]
    for bad, message in ((weights[0], r"contrasts \[C, Q\]"), (weights[:, :3], r"contrasts \[C, Q=4\]")):
        with pytest.raises(ValueError, match=message):
            jaxame.estimate_ame(design, utilities, contrasts=bad)


def test_several_draws_of_copies_and_another_statistic():
    rng = np.random.default_rng(4)
    design = sample_design(jax.random.key(4), GRID, num_submodels=M, num_sources=N)
    effect = np.where(np.arange(N) < 8, 1.0, 0.0)
    utilities = np.asarray(design.masks()) @ effect[:, None] + rng.normal(size=(M, Q)) * (np.arange(Q) < 2)
    result = jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=COPIES, draws=3)
    single = jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=COPIES)
    np.testing.assert_array_equal(result.importance[:, :1], single.importance)
    assert (result.importance[:, 1] != result.importance[:, 0]).any()
    assert set(result.select(0.2).indices) >= set(range(8))
    with pytest.raises(ValueError, match='method "knockoff\\+" for several draws'):
        result.select(0.2, method="knockoff")
    other = jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=COPIES, statistic="coefficient")
    assert set(other.select(0.2).indices) >= set(range(8))
    np.testing.assert_array_equal(other.values, single.values)


BAD_SELECTIONS = {
    "p-values of groups": ({"method": "bh", "groups": np.arange(N)}, "needs knockoffs to select groups"),
    "groups with a gap": ({"groups": np.arange(N) + 1}, f"needs groups to be {N} integers, from 0 and none left out"),
    "too few groups": ({"groups": np.arange(N - 1)}, f"needs groups to be {N} integers"),
    "query too large": ({"query": Q}, 'needs query to be a number below 6 or "all"; got int 6'),
    "negative query": ({"query": -1}, "needs query .*; got int -1"),
    "misspelt all": ({"query": "al"}, "needs query .*; got str 'al'"),
    "boolean query": ({"query": True}, "needs query .*; got bool True"),
    "fractional query": ({"query": 0.5}, "needs query .*; got float 0.5"),
    "no query": ({"query": None}, "needs query .*; got NoneType None"),
    "level 0": ({"fdr": 0}, "needs fdr strictly between 0 and 1; got int 0"),
    "level 1": ({"fdr": 1.0}, "needs fdr strictly between 0 and 1; got float 1.0"),
    "alternative": ({"alternative": "both"}, "needs alternative to be one of .*; got str 'both'"),
    "method": ({"method": "knockoffs"}, "needs method to be one of .*; got str 'knockoffs'"),
}


@pytest.mark.parametrize(("options", "message"), BAD_SELECTIONS.values(), ids=BAD_SELECTIONS.keys())
def test_bad_selections_are_refused(result, options, message):
    with pytest.raises(ValueError, match=message):
        result.select(**options)


def test_selecting_needs_copies(result):
    with pytest.raises(ValueError, match=r"needs knockoff copies \(copies >= 1 when estimating\); got copies=0"):
        without_copies(result).select()
