"""When to stop: rules that look at the rounds of a growing experiment, combined with `&` and `|`.

A rule is asked after every round, so that what it looks at is a little better than it would be at a number of
submodels fixed beforehand: the more rounds, the more so. Rounds grow by a half, which keeps them few.
"""

import abc
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxame import checks, knockoffs
from jaxame.attribution import Attribution

_GROWTH = 1.5


class Round(NamedTuple):
    """One round.

    Attributes:
      result: the estimate from all rows so far.
      seconds: since the start of the first round.
    """

    result: Attribution
    seconds: float

    @property
    def num_submodels(self) -> int:
        """`M` so far."""
        return int(self.result.about["num_submodels"])


class Verdict(NamedTuple):
    """What a rule says.

    Attributes:
      holds: whether the experiment may stop.
      reason: why or why not, for people.
    """

    holds: bool
    reason: str


class Rule(abc.ABC):
    """Decides after every round whether to stop. To write your own, derive from this one and define `__call__`.

    Attributes:
      limit: no more submodels than this are of any use to the rule.
      selects: whether it needs knockoff copies.
    """

    limit: float = math.inf
    selects: bool = False

    @abc.abstractmethod
    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Judge `history`, the rounds so far, at least one."""

    def __and__(self, other: "Rule") -> "Rule":
        """Stop once both hold."""
        return All((self, other))

    def __or__(self, other: "Rule") -> "Rule":
        """Stop once one of them holds."""
        return AnyOf((self, other))


class _Combined(Rule):
    """Several rules."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        """Require rules."""
        for rule in self.rules:
            checks.require(isinstance(rule, Rule), "a jaxame.stopping.Rule, such as Width(0.05)", checks.describe(rule))

    @property
    def selects(self) -> bool:  # type: ignore[override]
        """Whether any of them needs knockoff copies."""
        return any(rule.selects for rule in self.rules)


@dataclasses.dataclass(frozen=True)
class All(_Combined):
    """Holds where all `rules` do."""

    rules: tuple[Rule, ...]

    @property
    def limit(self) -> float:  # type: ignore[override]
        """The largest limit."""
        return max(rule.limit for rule in self.rules)

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Judge by each."""
        verdicts = [rule(history) for rule in self.rules]
        return Verdict(all(v.holds for v in verdicts), " and ".join(v.reason for v in verdicts))


@dataclasses.dataclass(frozen=True)
class AnyOf(_Combined):
    """Holds where any of `rules` does; the reason is that of those that hold, if any."""

    rules: tuple[Rule, ...]

    @property
    def limit(self) -> float:  # type: ignore[override]
        """The smallest limit."""
        return min(rule.limit for rule in self.rules)

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Judge by each."""
        verdicts = [rule(history) for rule in self.rules]
        holding = [v.reason for v in verdicts if v.holds]
        return Verdict(bool(holding), " and ".join(holding or [v.reason for v in verdicts]))


@dataclasses.dataclass(frozen=True)
class Width(Rule):
    """Every confidence interval is at most this wide.

    Args:
      at_most: width, in the unit of the query; in that of each, if there are several.
      level: of the intervals.
      fdr: look at the sources selected at this false discovery rate only, at least one per query; None for all.
      query: a query's number; None for all.

    Raises:
      ValueError: for a width that is not positive, or a level or rate outside (0, 1).
    """

    at_most: float
    level: float = 0.95
    fdr: float | None = None
    query: int | None = None

    def __post_init__(self) -> None:
        """Validate."""
        _positive(self.at_most, "at_most")
        checks.probability(self.level, "level")
        if self.fdr is not None:
            checks.probability(self.fdr, "fdr")

    @property
    def selects(self) -> bool:  # type: ignore[override]
        """Whether it looks at selected sources only."""
        return self.fdr is not None

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Compare the widest interval of the last round."""
        result = history[-1].result
        lower, upper = result.interval(self.level)
        widest = 0.0
        for q in range(result.num_queries) if self.query is None else [_known(self.query, result)]:
            chosen = np.arange(result.num_sources) if self.fdr is None else result.select(self.fdr, q).indices
            if not chosen.size:
                return Verdict(False, f"nothing is selected for query {q} at fdr={self.fdr:g}")
            widest = max(widest, float((upper - lower)[q, chosen].max()))
        of = "interval" if self.fdr is None else "interval of a selected source"
        return Verdict(widest <= self.at_most, f"the widest {of} is {widest:.3g} (wanted {self.at_most:g})")


@dataclasses.dataclass(frozen=True)
class StableSelection(Rule):
    """The same sources have been selected, at least one, in each of the last rounds.

    Args:
      fdr: false discovery rate of the selection.
      rounds: how many rounds agree, at least 2.
      query: a query's number or "all"; see `Attribution.select`.
      alternative: likewise.

    Raises:
      ValueError: for a rate outside (0, 1), fewer rounds, or an unknown alternative.
    """

    fdr: float = 0.1
    rounds: int = 3
    query: int | str = 0
    alternative: str = "two-sided"
    selects = True

    def __post_init__(self) -> None:
        """Validate."""
        checks.probability(self.fdr, "fdr")
        checks.count(self.rounds, "rounds", 2)
        known = f"alternative to be one of {knockoffs.ALTERNATIVES}"
        checks.require(self.alternative in knockoffs.ALTERNATIVES, known, checks.describe(self.alternative))

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Compare the selections of the last rounds."""
        chosen = [
            frozenset(each.result.select(self.fdr, self.query, alternative=self.alternative).indices.tolist())
            for each in history[-self.rounds :]
        ]
        agreeing = next((n for n, other in enumerate(reversed(chosen)) if other != chosen[-1]), len(chosen))
        holds = bool(chosen[-1]) and agreeing == self.rounds
        return Verdict(holds, f"the same {len(chosen[-1])} sources are selected in {agreeing} of {self.rounds} rounds")


@dataclasses.dataclass(frozen=True)
class CVError(Rule):
    """The cross-validated error has stopped falling.

    It is taken as a share of the error without any source. The rule holds where, from the round before to the last, no
    query's share has fallen by as much as `improvement` of itself, and something is explained: the share is more than
    a standard error below 1.

    Args:
      improvement: relative, strictly between 0 and 1.

    Raises:
      ValueError: for another improvement.
    """

    improvement: float = 0.02

    def __post_init__(self) -> None:
        """Validate."""
        checks.probability(self.improvement, "improvement")

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Compare the last two rounds."""
        last, error = _unexplained(history[-1].result)
        if not (last + error < 1).all():
            return Verdict(False, "the cross-validated error is no smaller than without sources")
        if len(history) < 2:
            return Verdict(False, "there is one round only")
        before = _unexplained(history[-2].result)[0]
        # What a query without any variance leaves unexplained is 0 from the first.
        fall = float(np.subtract(1, np.divide(last, before, out=np.ones_like(last), where=before > 0)).max())
        return Verdict(fall < self.improvement, f"the cross-validated error fell by {fall:.2%} in the last round")


@dataclasses.dataclass(frozen=True)
class Seconds(Rule):
    """So much time has gone by; the round under way is brought to its end.

    Args:
      at_least: seconds, positive.

    Raises:
      ValueError: for other numbers.
    """

    at_least: float

    def __post_init__(self) -> None:
        """Validate."""
        _positive(self.at_least, "at_least")

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Look at the time."""
        seconds = history[-1].seconds
        return Verdict(seconds >= self.at_least, f"{seconds:.3g} of {self.at_least:g} seconds have gone by")


@dataclasses.dataclass(frozen=True)
class Submodels(Rule):
    """So many submodels have been evaluated, and no more.

    Args:
      number: at least 2.

    Raises:
      ValueError: for other numbers.
    """

    number: int

    def __post_init__(self) -> None:
        """Validate."""
        checks.count(self.number, "number", 2)

    @property
    def limit(self) -> float:  # type: ignore[override]
        """Their number."""
        return self.number

    def __call__(self, history: Sequence[Round]) -> Verdict:
        """Count."""
        number = history[-1].num_submodels
        return Verdict(number >= self.number, f"{number} of {self.number} submodels are evaluated")


def largest(rule: Rule, num_submodels: int, max_submodels: int | None, copies: int) -> int:
    """Return how many submodels a rule may take.

    Args:
      rule: says how many it needs at most, if it knows.
      num_submodels: of the first round; the least it may take.
      max_submodels: further bound, or None.
      copies: knockoff copies there will be.

    Raises:
      ValueError: if that is not bounded, or below the first round; for what is not a rule, and one that selects
        without copies.
    """
    checks.require(isinstance(rule, Rule), "stop to be a jaxame.stopping.Rule", checks.describe(rule))
    checks.require(copies > 0 or not rule.selects, f"knockoff copies for {rule}", "copies=0")
    bound = rule.limit
    if max_submodels is not None:
        bound = min(bound, checks.count(max_submodels, "max_submodels", 2))
    checks.require(math.isfinite(bound), f"max_submodels, as {rule} may never hold", "None")
    checks.require(bound >= num_submodels, f"at most {bound} submodels in the first round", num_submodels)
    return int(bound)


def run(estimate: Callable[[int], Attribution], rule: Rule, num_submodels: int, maximum: int) -> Attribution:
    """Grow an experiment until a rule holds or `maximum` submodels are evaluated.

    Args:
      estimate: maps a number of submodels, larger from call to call, to the result from all of them.
      rule: asked after every round.
      num_submodels: of the first round; each further one grows by a half.
      maximum: of the last round at most.

    Returns:
      The last result. Its `about["stopping"]` holds the rule, whether it held, the reason and all rounds.
    """
    start, history, rounds = time.perf_counter(), [], []
    while True:
        result = estimate(num_submodels)
        history.append(Round(result, time.perf_counter() - start))
        verdict = rule(history)
        rounds.append({"num_submodels": num_submodels, "seconds": history[-1].seconds, "reason": verdict.reason})
        if verdict.holds or num_submodels >= maximum:
            break
        num_submodels = min(maximum, math.ceil(_GROWTH * num_submodels))
    reason = verdict.reason if verdict.holds else f"{maximum} submodels are the most allowed; {verdict.reason}"
    stopping = {"rule": repr(rule), "held": verdict.holds, "reason": reason, "rounds": rounds}
    return dataclasses.replace(result, about=result.about | {"stopping": stopping})


def _positive(value: float, name: str) -> None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    checks.require(is_number and 0 < value < math.inf, f"{name} finite and positive", checks.describe(value))


def _known(query: int, result: Attribution) -> int:
    known = not isinstance(query, bool) and query in range(result.num_queries)
    checks.require(known, f"query to be a number below {result.num_queries}", checks.describe(query))
    return query


def _unexplained(result: Attribution) -> tuple[np.ndarray, np.ndarray]:
    """Smallest cross-validated error and its standard error, `[Q]` each, as shares of that of the fit of zeros.

    A query that no source and no row moves has nothing to be explained: its share is 0.
    """
    assert result.cv_error is not None
    assert result.cv_error_se is not None
    at = np.nanargmin(result.cv_error, axis=0)
    zero = result.cv_error[0]
    scale = np.where(zero > 0, zero, 1.0)
    lowest, error = (np.take_along_axis(a, at[None], axis=0)[0] for a in (result.cv_error, result.cv_error_se))
    return lowest / scale, error / scale
