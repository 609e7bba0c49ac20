"""Masks out and utilities in, between two programs: right answers, and every failure a clear error that ends."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import Stacked

import jaxame
from jaxame import cli, exchange, games, interop
from jaxame.data.parquet import require_extra
from jaxame.exchange import ExchangeError
from jaxame.laws import PointMass

N = 10
KEY = jax.random.key(3)
ADDITIVE = games.Additive(np.arange(float(N)), bias=3.0)
HEAD = """
import sys
import numpy as np
import jaxame_exchange
print("not even before it is found", flush=True)
assert not any(name.split(".")[0] in ("jax", "jaxame") for name in sys.modules)
channel = jaxame_exchange.to_starter()
N = 10
"""


def program(text):
    """Return the command of a program that can import `jaxame_exchange`, and nothing of jax."""
    return [sys.executable, "-c", HEAD + text]


def serve(text, game=ADDITIVE, **options):
    return interop.serve(game, program(text), key=KEY, **{"patience": 30.0} | options)


MARGINS = """
print("what a package prints is not in the way", flush=True)
masks = np.concatenate([np.zeros((1, N), bool), np.eye(N, dtype=bool)])
none, *ones = channel.ask(masks)
both = channel.ask(np.arange(N)[None] < 2)
assert both.dtype == np.float64
channel.finish({"values": (np.array(ones) - none).tolist(), "both": both.tolist()})
"""


def test_an_estimator_elsewhere_asks_a_game():
    game = Stacked((ADDITIVE, games.Airport(np.arange(1.0, N + 1))))
    outcome = serve(MARGINS, game)
    np.testing.assert_allclose(outcome["values"], np.stack([np.arange(N), np.arange(1, N + 1)], axis=1), atol=1e-6)
    np.testing.assert_allclose(outcome["both"], [[4.0, 2.0]], atol=1e-6)


def test_games_get_keys_by_the_number_of_the_row_and_no_more_rows_than_they_like():
    class Noisy:
        num_sources, chunk_size = N, 4

        def __call__(self, keys, masks):
            assert len(masks) <= 4
            return jax.vmap(jax.random.uniform)(keys)[:, None]

    parts = "channel.finish({'u': [float(u) for n in (7, 3) for u in channel.ask(np.ones((n, N), bool))[:, 0]]})"
    whole = "channel.finish({'u': channel.ask(np.ones((10, N), bool))[:, 0].tolist()})"
    drawn = serve(parts, Noisy())["u"]
    assert len(set(drawn)) == 10
    assert serve(whole, Noisy())["u"] == drawn


TRAINER = """
import sys
def train(masks):
    folders.append(channel._folder)
    return np.where(masks[:, 0], np.nan, masks @ np.arange(float(N)))
folders = []
outcome = channel.answer(train, N)
assert [path.suffix for path in folders[0].iterdir()] == [".py"]  # what was used is gone
print(outcome["text"], file=sys.stderr)
open(outcome["file"], "w").write("ended by itself")
"""


def test_a_trainer_elsewhere_is_a_game(tmp_path):
    file = tmp_path / "ended"
    with exchange.start(program(TRAINER), patience=30.0) as channel:
        game = interop.MaskGame(channel.ask, N)
        found = jaxame.ame(game, key=KEY, num_submodels=64, law=PointMass(0.5), copies=0, folds=4)
        channel.finish({"text": "thanks", "file": str(file)})
    assert file.read_text() == "ended by itself"
    assert 10 < found.num_left_out[0] < 54
    np.testing.assert_allclose(found.debiased[0, 1:], np.arange(1, N), atol=0.3)


REFUSED = {
    "dies at once": ("sys.exit('no memory')", "exit status 1: not even before it is found\nno memory"),
    "dies while it asks": ("channel._send('1.masks.npy'); sys.exit(7)", "1.masks.npy"),
    "ends without an outcome": ("channel.ask(np.ones((1, N), bool))", "its end, exit status 0"),
    "half a line": ("channel._write.write('half')", "'half', and then its end"),
    "wrong width": ("channel.ask(np.ones((2, N - 1), bool))", r"masks bool \[m, 10\]; got bool\[2, 9\]"),
    "one mask without an axis": ("channel.ask(np.ones(N, bool))", r"got bool\[10\]"),
    "numbers": ("channel.ask(np.ones((2, N)))", r"got float64\[2, 10\]"),
    "objects": (
        "np.save(channel._folder / 'o.npy', np.array([[None] * N])); channel._send('o.npy'); channel._receive()",
        "without Python objects; got Object arrays cannot be loaded",
    ),
    "no array": (
        "(channel._folder / 'o.npy').write_bytes(b'cos\\nsystem\\n'); channel._send('o.npy'); channel._receive()",
        "without Python objects",
    ),
    "no file": ("channel._send('7.npy'); channel._receive()", "needs 7.npy to be an .npy file"),
    "a file elsewhere": ("channel._send('../o.npy'); channel._receive()", r"in the folder; got \.\./o\.npy"),
    "no JSON": ("channel._send('{values'); channel._receive()", "an outcome in JSON"),
    "hangs": ("import time; time.sleep(60)", "needs a line within 0.8 s"),
    "another encoding": ("sys.stdout.buffer.write(b'caf\\xe9'); sys.exit(1)", "exit status 1: .*\ncaf\ufffd"),
    "bytes for a line": (
        "channel._write.buffer.write(b'\\xe9\\n'); channel._write.flush()",
        "the name of an .npy file",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_goes_wrong_there_is_an_error_here(name):
    text, message = REFUSED[name]
    begin = time.perf_counter()
    with pytest.raises(ExchangeError, match=message):
        serve(text, patience=0.8 if name == "hangs" else 30.0)
    assert time.perf_counter() - begin < 20


def test_patience_binds_a_program_that_a_shell_starts():
    """Killing the shell alone would leave the pipes open until the program ends."""
    in_a_shell = ["sh", "-c", '"$@"; true', "sh", *program("import time; time.sleep(40)")]
    begin = time.perf_counter()
    with pytest.raises(ExchangeError, match=r"needs a line within 2 s"):
        interop.serve(ADDITIVE, in_a_shell, key=KEY, patience=2.0)
    assert time.perf_counter() - begin < 20


@pytest.mark.parametrize("patience", [0, -1.0, float("nan")])
def test_no_patience_is_refused(patience):
    with pytest.raises(ValueError, match="needs patience to be above 0 s, or None; got"):
        serve(MARGINS, patience=patience)


def test_endless_patience_is_as_none():
    assert serve("channel.finish({'text': 'done'})", patience=float("inf")) == {"text": "done"}


ANSWERS = {
    "objects": ("np.array([[None]] * 3)", "without Python objects"),
    "too few": ("np.zeros((2, 1))", r"utilities float64 \[3, Q\]; got float64\[2, 1\]"),
    "no axis of queries": ("np.zeros(3)", r"got float64\[3\]"),
    "other numbers": ("np.zeros((3, 1), np.float32)", r"got float32\[3, 1\]"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_are_none_are_refused(name):
    answer, message = ANSWERS[name]
    text = (
        f"channel._receive(); np.save(channel._folder / 'u.npy', {answer}); channel._send('u.npy'); channel._receive()"
    )
    with exchange.start(program(text), patience=30.0) as channel, pytest.raises(ExchangeError, match=message):
        channel.ask(np.ones((3, N), bool))


def test_a_trainer_that_dies_is_an_error():
    def ask(text):
        with exchange.start(program(text), patience=30.0) as channel:
            channel.ask(np.ones((3, N), bool))

    with pytest.raises(ExchangeError, match="no loss"):
        ask("channel.answer(lambda masks: sys.exit('no loss'), N)")
    with pytest.raises(ExchangeError, match=r"needs utilities \[3, Q\]; got float64\[2\]"):
        ask("channel.answer(lambda masks: np.zeros(2), N)")


def test_an_error_of_the_game_is_raised_and_ends_the_other_program():
    def failing(masks):
        raise RuntimeError("more than the budget")

    with pytest.raises(RuntimeError, match="more than the budget"):
        serve("channel.ask(np.ones((1, N), bool))", interop.MaskGame(failing, N))


def test_the_command_line_tells_such_an_error_in_a_line():
    def failing():
        raise ExchangeError("needs a line within 2 s\ngot none")

    with pytest.raises(SystemExit, match=r"^jaxame x: needs a line within 2 s; got none$"):
        cli.with_errors_in_a_line("jaxame x", False, failing)


def test_the_command_line_tells_an_extra_that_is_missing_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "absent", None)
    with pytest.raises(SystemExit, match=r"^jaxame x: needs absent: pip install 'jaxame\[data\]'; got "):
        cli.with_errors_in_a_line("jaxame x", False, lambda: require_extra("absent", "data"))


def test_objects_are_not_even_sent(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        exchange.Channel(sys.stdout, sys.stdin, tmp_path).ask(np.array([[None]]))


def test_a_program_that_nobody_started_is_told():
    command = [sys.executable, exchange.__file__]
    done = subprocess.run(
        [command[0], "-c", f"exec(open({command[1]!r}).read()); to_starter()"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "started by jaxame.exchange.start" in done.stderr
