"""The result of a run: values, selection, what went wrong, and how to keep it."""

import dataclasses
import json
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from jaxame import checks, knockoffs, notebook
from jaxame.files import replacing
from jaxame.knockoffs import Selection
from jaxame.types import Status, SubmodelStatus

_FORMAT = "jaxame.Attribution"
_FORMAT_VERSION = 3
_OF_LASSO = ("lasso_min", "lasso_1se", "relative_gap", "violation", "cv_penalty", "cv_error", "cv_error_se")
_OPTIONAL = ("values_sd", "stderr", "randomisation_p", "training_variance", *_OF_LASSO)
_SHOWN, _SHOWN_FDR = 8, 0.1  # in a notebook
METHODS = (*knockoffs.METHODS, "bh", "bh-approximate")
_EXPLAIN = {
    Status.NOT_CONVERGED: "the LASSO did not converge to the tolerance; its values and selection are approximate",
    Status.LEFT_OUT_RELATED_TO_P: (
        "the rows left out as non-finite depend on p, so the remaining rows give a biased AME; mend the failing "
        "submodels instead of leaving them out"
    ),
    Status.LEFT_OUT_RELATED_TO_SOURCE: (
        "the rows left out as non-finite depend on a source, so the remaining rows give a biased AME; mend the failing "
        "submodels instead of leaving them out"
    ),
    Status.NOT_FINITE: (
        "the utility of some subset is not finite, or a model diverged, and this estimator cannot leave one out; "
        "values that it goes into are NaN; mend the failing submodels, or use jaxame.ame or jaxame.shapley, which "
        "leave them out"
    ),
    Status.TOTAL_NOT_FINITE: (
        "the utility of no source or of all is not finite, so the values could not be made to sum to the difference; "
        "mend the game there, or take efficient=False"
    ),
}


class AttributionError(RuntimeError):
    """Some queries of an `Attribution` cannot be relied on."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Average marginal effects of `N` sources on `Q` queries, with what is needed to select among them.

    Adding source `i` to a random subset raises query `q` by `values[q, i]` on average, in the unit of the query.

    Of an estimator without a LASSO (`jaxame.baselines`), what concerns the LASSO is None, and `debiased` is `values`.

    Attributes:
      values: `[Q, N]` estimated AME: posterior means, by empirical Bayes, of what least squares on the sources in the
        LASSO at `lambda_1se` and one step from there give (`jaxame.values`). The best guess of every source's effect;
        for one that nothing pulls towards zero see `debiased`.
      values_sd: `[Q, N]` posterior standard deviation of `values`, in its unit, or None if they are not shrunken.
      stderr: `[Q, N]` standard errors of `debiased`, in its unit, or None; see `interval`.
      status: `[Q]` one `jaxame.types.Status` per query; see `check`.
      lasso_min: `[Q, N]` AME by the LASSO at `lambda_min`.
      lasso_1se: `[Q, N]` AME by the LASSO at `lambda_1se`.
      debiased: `[Q, N]` AME by one step from the LASSO at `lambda_1se`: noisier than `values`, but without its zeros.
      num_left_out: `[Q]` rows left out because the utility was not finite.
      submodel_status: `[M]` one `jaxame.types.SubmodelStatus` per submodel.
      relative_gap: `[Q, 2]` relative duality gap of the fits at `lambda_min` and `lambda_1se`, recomputed in float64.
      violation: `[Q, 2]` their largest violation of an optimality condition, as a share of the smallest penalty that
        gives zero, likewise.
      cv_penalty: `[L, Q]` penalties fitted; NaN after a query's path ended.
      cv_error: `[L, Q]` cross-validated mean squared error.
      cv_error_se: `[L, Q]` its standard error.
      importance: `[Q, D, 1+c, N]` importance of the sources and, after them, of their `c` knockoff copies, in `D` draws
        of copies: penalty at which the column enters the LASSO path, or size of its coefficient at `lambda_min`, with
        the sign of the coefficient. Unit of the query; `c = 0` without copies.
      randomisation_p: `[Q, 2, N]` p-values of the exact test, against sources that raise and that lower the query, or
        None; see `p_values`.
      training_variance: `[Q]` variance of the utility over training runs on the same subset, or None if no subset was
        trained on twice; NaN for a query without a subset on which both were finite.
      utility_variance: `[Q]` variance of the utility over all submodels.
      about: what was run: law, coding, sizes, versions. JSON-serialisable.
    """

    values: np.ndarray
    values_sd: np.ndarray | None
    stderr: np.ndarray | None
    status: np.ndarray
    lasso_min: np.ndarray | None
    lasso_1se: np.ndarray | None
    debiased: np.ndarray
    num_left_out: np.ndarray
    submodel_status: np.ndarray
    relative_gap: np.ndarray | None
    violation: np.ndarray | None
    cv_penalty: np.ndarray | None
    cv_error: np.ndarray | None
    cv_error_se: np.ndarray | None
    importance: np.ndarray
    randomisation_p: np.ndarray | None
    training_variance: np.ndarray | None
    utility_variance: np.ndarray
    about: dict[str, Any]

    @property
    def num_queries(self) -> int:
        """`Q`."""
        return int(self.values.shape[0])

    @property
    def num_sources(self) -> int:
        """`N`."""
        return int(self.values.shape[1])

    @property
    def num_copies(self) -> int:
        """`c`."""
        return int(self.importance.shape[2]) - 1

    @property
    def warm_start(self) -> bool:
        """Whether the submodels started from parameters that had seen all sources; see `jaxame.submodels.compare`."""
        return bool(self.about["game"].get("warm_start", False))

    def check(self) -> "Attribution":
        """Return self if every query's status is `OK`.

        Raises:
          AttributionError: naming every query that is not, what is wrong with it and what to do.
        """
        problems = self.problems()
        if problems:
            raise AttributionError("\n".join(problems))
        return self

    def problems(self) -> list[str]:
        """Return for every query whose status is not `OK` what is wrong with it and what to do."""
        return [
            f"query {q}: {_EXPLAIN[Status(code)]} ({self.num_left_out[q]} rows left out)"
            for q, code in enumerate(self.status)
            if code != Status.OK
        ]

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return confidence intervals of every AME: those of `debiased`, which needs no source to be selected first.

        Each covers its AME with about the probability asked for if there are at least as many submodels as sources and
        the LASSO finds most of what is large; over many sources, some will miss. They are about the draw of subsets and
        the training together.

        Args:
          level: probability to cover, strictly between 0 and 1.

        Returns:
          lower and upper bounds, `[Q, N]` each, in the unit of the query.

        Raises:
          ValueError: for a level outside (0, 1), or if there are no standard errors.
        """
        level = checks.probability(level, "level")
        half = scipy.stats.norm.ppf((1 + level) / 2) * self._with_stderr()
        return self.debiased - half, self.debiased + half

    def p_values(self, alternative: str = "two-sided", *, exact: bool = False) -> np.ndarray:
        """Return p-values `[Q, N]` of "no effect".

        The approximate ones come from `debiased` and `stderr` and lean on the normal distribution. The exact ones are
        those of a randomisation test, which holds at any number of submodels; `jaxame.estimate_ame(..., redraws=)`
        runs it. They are never below `1 / (1 + redraws)`.

        Args:
          alternative: "greater" against sources that raise the query, "less" against those that lower it, "two-sided"
            against both.
          exact: whether to return the exact ones.

        Raises:
          ValueError: for an unknown alternative, or if what they are made from was not computed.
        """
        knockoffs.require_alternative(alternative)
        if exact:
            checks.require(self.randomisation_p is not None, "a randomisation test (redraws >= 1)", "redraws=0")
            assert self.randomisation_p is not None
            greater, less = np.moveaxis(self.randomisation_p, 1, 0)
            both = np.minimum(1.0, 2 * np.minimum(greater, less))
            exact_ones: np.ndarray = {"two-sided": both, "greater": greater, "less": less}[alternative]
            return exact_ones
        stderr = self._with_stderr()
        with np.errstate(divide="ignore", invalid="ignore"):
            z = self.debiased / stderr
        # A target without any variance has no effect of any source, and no error.
        z = np.where((self.debiased == 0) & (stderr == 0), 0.0, z)
        normal = scipy.stats.norm
        tail = {"two-sided": 2 * normal.sf(np.abs(z)), "greater": normal.sf(z), "less": normal.cdf(z)}
        approximate: np.ndarray = tail[alternative]
        return approximate

    def q_values(self, alternative: str = "two-sided", *, exact: bool = False) -> np.ndarray:
        """Return q-values `[Q, N]`: the smallest false discovery rate at which Benjamini-Hochberg selects a source.

        Arguments and errors are those of `p_values`. Sources of one query are selected at rate `fdr` by
        `q_values()[q] <= fdr`, as `select(fdr, q, method="bh")` does for the exact ones.

        References:
          Benjamini and Hochberg, JRSS B 57(1), 1995.
        """
        return np.stack([knockoffs.adjusted(p) for p in self.p_values(alternative, exact=exact)])

    def efficient(self, total: np.ndarray, variance: np.ndarray | None = None) -> np.ndarray:
        """Return `values` shifted so that they sum to `total`, as Shapley values do (the axiom of efficiency).

        What is missing is spread over all sources in proportion to the variance of `values_sd`: their posterior mean,
        given the sum. Where the total has a variance of its own, only as much of it is believed as a posterior mean
        does, and the rest is spread evenly. Costs two further evaluations of the game.

        Args:
          total: `[Q]` utility of all sources less that of none, in the unit of the query.
          variance: `[Q]` variance of `total`, none negative; by default zeros.

        Returns:
          `[Q, N]`.

        Raises:
          ValueError: for a result that is not of `jaxame.shapley` or a uniform law, values that are not shrunken,
            another shape, and totals or variances that are not as described.
        """
        law = str(self.about.get("law"))
        checks.require(law.startswith("TruncatedUniform"), "a result under TruncatedUniform, of Shapley values", law)
        checks.require(self.values_sd is not None, "shrunken values, whose errors are known", "shrunken=False")
        assert self.values_sd is not None
        total, of_total = (np.asarray(0 * total if x is None else x, np.float64) for x in (total, variance))
        for name, given in (("total", total), ("variance", of_total)):
            checks.require(given.shape == (self.num_queries,), f"{name} [{self.num_queries}]", checks.describe(given))
            checks.require(bool(np.isfinite(given).all()), f"{name} finite", given)
        checks.require(bool((of_total >= 0).all()), "variance >= 0", of_total)
        of_values = self.values_sd**2
        of_values = np.where(of_values.any(axis=1, keepdims=True), of_values, 1.0)
        sums = of_values.sum(axis=1)
        believed = sums / (sums + of_total)
        share = believed[:, None] * of_values / sums[:, None] + (1 - believed[:, None]) / self.num_sources
        return np.asarray(self.values + (total - self.values.sum(axis=1))[:, None] * share)

    def _with_stderr(self) -> np.ndarray:
        checks.require(self.stderr is not None, "standard errors, which this estimator has not", "None")
        assert self.stderr is not None
        return self.stderr

    def select(
        self,
        fdr: float = 0.1,
        query: int | str = 0,
        *,
        alternative: str = "two-sided",
        method: str = "knockoff+",
        groups: ArrayLike | None = None,
    ) -> Selection:
        """Select the sources that affect a query, at a false discovery rate.

        Args:
          fdr: level, strictly between 0 and 1. With `c` copies no fewer than `ceil(1 / (c fdr))` can be selected.
          query: a query's number, or "all" for the sources that affect any query, with the rate controlled on the
            union.
          alternative: "greater" for sources that raise the query, "less" for those that lower it, "two-sided" for both.
          method: "knockoff+" (from several draws of copies by their e-values); "knockoff", which is less strict and
            controls a weaker rate; "bh", Benjamini-Hochberg on the exact p-values; "bh-approximate", on the others.
          groups: int `[N]`, group of every source, from 0: select groups instead, which may be formed after the run.

        Returns:
          A `Selection`. Selecting nothing is a normal result; its `reason` says what would help.

        Raises:
          ValueError: for an unknown query, level, alternative, method or groups, or if what the method needs was not
            computed.

        Example:
          >>> import jax
          >>> import jaxame
          >>> from jaxame.design import Grid
          >>> from jaxame.games import Additive
          >>> game = Additive([2.0, 1.0] + [0.0] * 18)
          >>> result = jaxame.ame(game, key=jax.random.key(0), num_submodels=100, law=Grid((0.1, 0.3, 0.5, 0.7, 0.9)))
          >>> chosen = result.select(fdr=0.2, query=0)
          >>> chosen.indices
          array([0, 1])
          >>> chosen.estimated_fdp <= 0.2
          True
        """
        checks.require(method in METHODS, f"method to be one of {METHODS}", checks.describe(method))
        if method.startswith("bh"):
            checks.require(groups is None, "knockoffs to select groups", f"method {method!r}")
            return knockoffs.select_by_p_values(self._p_of_query(alternative, method == "bh", query), fdr)
        checks.require(self.num_copies > 0, "knockoff copies (copies >= 1 when estimating)", "copies=0")
        columns = self._of_query(knockoffs.importance(self.importance, alternative), query)
        if groups is not None:
            columns = knockoffs.of_groups(columns, self._valid_groups(groups))
        if len(columns) == 1:
            return knockoffs.select(columns[0], fdr, method)
        checks.require(method == "knockoff+", 'method "knockoff+" for several draws of copies', checks.describe(method))
        return knockoffs.select_by_e_values(columns, fdr)

    def _valid_groups(self, groups: ArrayLike) -> np.ndarray:
        labels = np.asarray(groups)
        fits = labels.shape == (self.num_sources,) and np.issubdtype(labels.dtype, np.integer)
        fits = fits and np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
        needs = f"groups to be {self.num_sources} integers, from 0 and none left out"
        checks.require(bool(fits), needs, checks.describe(labels))
        return labels

    def _p_of_query(self, alternative: str, exact: bool, query: int | str) -> np.ndarray:
        p = self.p_values(alternative, exact=exact)
        if isinstance(query, str) and query == "all":
            return np.asarray(np.minimum(1.0, self.num_queries * p.min(axis=0)))
        return np.asarray(p[self._number(query)])

    def _of_query(self, columns: np.ndarray, query: int | str) -> np.ndarray:
        if isinstance(query, str) and query == "all":
            # A source without any effect is exchangeable with its copies in all queries at once, so any sum over
            # queries competes fairly. Each query counts alike, whatever its unit.
            largest = np.abs(self.importance).max(axis=(1, 2, 3), keepdims=True)
            return np.asarray((columns / np.where(largest > 0, largest, 1.0)).mean(axis=0))
        return np.asarray(columns[self._number(query)])

    def _number(self, query: int | str) -> int:
        known = not isinstance(query, bool) and query in range(self.num_queries)
        checks.require(known, f'query to be a number below {self.num_queries} or "all"', checks.describe(query))
        return int(query)

    def report(self, path: str | PathLike[str], **options: Any) -> Path:
        """Write a report that somebody who did not run it can read: one HTML file that needs nothing else.

        It has the answer in a sentence, the sources selected for every query with their effects, charts of what that
        rests on, failures, settings and versions.

        Args:
          path: the file; its folder is made.
          **options: see `jaxame.report.write`: `fdr=`, `alternative=` and `method=` of the selection; `game=` (or
            `sources=`, `queries=` and `unit=`) for what things look like; `design=` and `utilities=` for effect curves;
            `growth=` for how stable the selection is.

        Returns:
          The path.

        Raises:
          ValueError: for a bad option, or if what the selection needs was not computed.
          OSError: if the file cannot be written.
        """
        from jaxame import report

        return report.write(self, path, **options)

    def __repr__(self) -> str:
        statuses = ", ".join(f"{(self.status == one).sum()} {one.name}" for one in Status if (self.status == one).any())
        what = f"{self.num_queries} x {self.num_sources} values of queries and sources"
        return f"<Attribution: {what}, {self._ran}; queries: {statuses}>"

    def _repr_html_(self) -> str:
        selects = self.num_copies > 0
        names = ["query", "largest AMEs: source (AME)"]
        names += [f"selected at a false discovery rate of {_SHOWN_FDR:g}"] * selects + ["status"]
        rows = []
        for q in range(min(self.num_queries, _SHOWN)):
            top = np.argsort(-np.abs(self.values[q]), kind="stable")[:_SHOWN]
            chosen = self.select(_SHOWN_FDR, q).indices if selects else np.zeros(0, int)
            effects = ", ".join(f"{source} ({self.values[q, source]:+.3g})" for source in top)
            found = f"{chosen.size}: {', '.join(map(str, chosen[:_SHOWN]))}{', ...' * (chosen.size > _SHOWN)}"
            rows.append([str(q), effects, *([found] if selects else []), Status(int(self.status[q])).name])
        more = self.num_queries - len(rows)
        caption = f"Attribution: {self.num_queries} queries, {self.num_sources:,} sources, {self._ran}"
        unit = self.about.get("game", {}).get("unit")
        caption += f"; AME in units of {unit}" if unit else ""
        return notebook.table(names, rows, caption + (f"; {more} more queries" if more else ""))

    @property
    def _ran(self) -> str:
        failed = int((self.submodel_status != SubmodelStatus.OK).sum())
        return f"{self.submodel_status.size:,} submodels ({failed} failed), {self.about.get('law', 'no law')}"

    def to_dataframe(self) -> Any:
        """Return one row per query and source as a pandas DataFrame (needs the `data` extra).

        Columns: query, source, value, debiased; with standard errors also stderr (of debiased), with knockoff copies
        also statistic (two-sided; its mean over the draws of copies).
        """
        import pandas as pd

        query, source = np.indices(self.values.shape)
        columns = {"query": query.ravel(), "source": source.ravel(), "value": self.values.ravel()}
        columns["debiased"] = self.debiased.ravel()
        if self.stderr is not None:
            columns["stderr"] = self.stderr.ravel()
        if self.num_copies:
            both = np.abs(self.importance)
            competed = [[knockoffs.compete(draw) for draw in of_query] for of_query in both]
            columns["statistic"] = np.mean(competed, axis=1).ravel()
        return pd.DataFrame(columns)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one `.npz` file at exactly `path`, which `jaxame.load` reads.

        Raises:
          ValueError: if an array holds Python objects, which could be kept by pickle only.

        Example:
          >>> import jax
          >>> import jaxame
          >>> from jaxame.design import Grid
          >>> from jaxame.games import Additive
          >>> game = Additive([2.0, 1.0] + [0.0] * 18)
          >>> result = jaxame.ame(game, key=jax.random.key(0), num_submodels=100, law=Grid((0.1, 0.3, 0.5, 0.7, 0.9)))
          >>> result.save("result.npz")
          >>> jaxame.load("result.npz").num_sources
          20
        """
        arrays = {name: value for name, value in _fields(self).items() if isinstance(value, np.ndarray)}
        objects = [name for name, value in arrays.items() if value.dtype.hasobject]
        checks.require(not objects, "arrays of numbers, which need no pickle", f"Python objects in {objects}")
        header = {"format": _FORMAT, "version": _FORMAT_VERSION, "about": self.about}
        everything: dict[str, Any] = {"header": np.array(json.dumps(header)), **arrays}
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **everything)


def _fields(result: Attribution) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def load(path: str | PathLike[str]) -> Attribution:
    """Read an `Attribution` that `Attribution.save` wrote to `path`.

    Raises:
      ValueError: if the file holds something else or another version of the format.
      FileNotFoundError: if there is none.

    Example:
      >>> import jax
      >>> import jaxame
      >>> from jaxame.design import Grid
      >>> from jaxame.games import Additive
      >>> game = Additive([2.0, 1.0] + [0.0] * 18)
      >>> result = jaxame.ame(game, key=jax.random.key(0), num_submodels=100, law=Grid((0.1, 0.3, 0.5, 0.7, 0.9)))
      >>> result.save("result.npz")
      >>> bool((jaxame.load("result.npz").values == result.values).all())
      True
    """
    needs = f"a file written by {_FORMAT}.save"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            header = json.loads(str(arrays.pop("header")))
            got = header["format"], header["version"]
            about = header["about"]
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"needs {needs}; got {path}, which is not one ({type(error).__name__})") from error
    wanted = _FORMAT, _FORMAT_VERSION
    checks.require(got == wanted, f"{needs}, format {wanted}", f"{got} in {path}")
    names = {field.name for field in dataclasses.fields(Attribution)} - {"about"}
    complete = names - set(_OPTIONAL) <= set(arrays) <= names
    checks.require(complete, f"{needs}, with the arrays {sorted(names)}", f"{sorted(arrays)} in {path}")
    return Attribution(**{**dict.fromkeys(_OPTIONAL), **arrays}, about=about)
