"""Files that are whole or not there."""

import pytest

from jaxame.files import replacing


def test_a_failure_leaves_what_was_there(tmp_path):
    place = tmp_path / "result"
    with replacing(place) as part:
        part.write_text("first")
        assert not place.exists()
    with pytest.raises(ZeroDivisionError), replacing(place) as part:
        part.write_text("half" + str(1 / 0))
    assert place.read_text() == "first"
    assert list(tmp_path.iterdir()) == [place]


def test_a_link_stays_one(tmp_path):
    place, link = tmp_path / "result", tmp_path / "link"
    link.symlink_to(place)
    with replacing(link) as part:
        part.write_text("through")
    assert link.is_symlink()
    assert place.read_text() == "through"
