"""What the manifest of a run says: laws as JSON, and what must be the same for a run to go on."""

import dataclasses
from typing import Any

from jaxame import checks, environment
from jaxame.fingerprint import differences, fingerprint
from jaxame.laws import Beta, Grid, Law, PointMass, TruncatedUniform

FORMAT, VERSION = "jaxame.run", 1
COMPARED = ("law", "key", "drawn", "coding", "paired", "num_sources", "num_queries", "game", "device")
_LAWS = {law.__name__: law for law in (Beta, Grid, PointMass, TruncatedUniform)}


def law_to_json(law: Law) -> dict[str, Any]:
    """Return a law as a JSON object; one of a user's own by its `repr`."""
    if type(law) not in _LAWS.values():
        return {"repr": repr(law)}
    known: Any = law  # all of those are dataclasses
    fields = dataclasses.asdict(known)
    return {"name": type(law).__name__} | {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}


def law_from_json(saved: dict[str, Any]) -> Law:
    """Return the law that `law_to_json` wrote.

    Raises:
      ValueError: if it is a user's own.
    """
    fields = dict(saved)
    name = fields.pop("name", None)
    checks.require(name in _LAWS, f"the law of the run as an argument, as it is none of {sorted(_LAWS)}", saved)
    return _LAWS[name](**fields)


def describe(game: Any) -> dict[str, Any]:
    """Return what a manifest says of a game, and of what it runs on."""
    return {"game": fingerprint(game), "device": environment.devices()[0]}


def require_same(known: dict[str, Any], given: dict[str, Any], place: str) -> None:
    """Refuse what is not as in the manifest of a run, naming every difference."""
    found = differences({name: known.get(name) for name in given}, given)
    text = "; ".join(found)
    if found and known["versions"]["jax"] != environment.versions()["jax"]:
        text += f" (the run was started under jax {known['versions']['jax']}, this is {environment.versions()['jax']})"
    checks.require(not found, f"the same as in {place}", text)


def require_readable(manifest: dict[str, Any], place: str) -> None:
    """Refuse what is not the manifest of a run, or of another version of the format."""
    got = manifest.get("format"), manifest.get("version")
    checks.require(got == (FORMAT, VERSION), f"a manifest of {FORMAT}, version {VERSION}, in {place}", got)


def require_tile(game: Any, manifest: dict[str, Any]) -> None:
    """Refuse a game whose tile became smaller while it trained."""
    tile, wanted = (dict(of or {}).get("tile") for of in (getattr(game, "about", None), manifest["game"]))
    needs = f"memory for a tile of {wanted}, on which the bits of results depend"
    checks.require(wanted is None or tile == wanted, needs, f"{tile}: start a run of a game with tile={tile}")
