"""MovieTweetings: a few hand-written lines, and the real files where they are."""

import gzip

import duckdb
import pytest

from pipelines.datasets.movietweetings import import_movietweetings
from tests.worlds.real_data import MOVIETWEETINGS, needs_movietweetings
from transformations.errors import InputError

RATINGS = """\
1::0054890::9::1381945744
1::0068646::7::1381945800
2::0068646::5::1381900000
2::0068646::0::1381900001
3::0068646::11::1381900002
3::0068646::8
4::oops::6::1381900003
"""
MOVIES = """\
0054890::The Hustler (1961)::Drama|Sport
0068646::"The Godfather", Part: One (1972)::Crime|Drama
0099999::Nobody Rated (Me) (2001)::
nonsense
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "ratings.dat").write_text(RATINGS)
    with gzip.open(tmp_path / "movies.dat.gz", "wt") as file:
        file.write(MOVIES)
    return tmp_path


def rows(path):
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        return con.execute(f"select columns(*)::varchar from '{path}'").fetchall()


def test_ratings_become_actions(source, tmp_path):
    report = import_movietweetings(source, tmp_path / "out")
    assert (report.events, report.items, report.refused) == (6, 3, 2)
    assert rows(tmp_path / "out" / "events.parquet") == [
        ("1", "54890", "APPLY", "2013-10-16 17:49:04+00"),
        ("1", "68646", "SAVE", "2013-10-16 17:50:00+00"),
        ("2", "68646", "DISMISS", "2013-10-16 05:06:40+00"),
        ("2", "68646", "DISMISS", "2013-10-16 05:06:41+00"),
        # Refused later, by the daily run, where its count is shown.
        ("3", "68646", "RATING 11", "2013-10-16 05:06:42+00"),
        ("4", None, "SAVE", "2013-10-16 05:06:43+00"),
    ]


def test_films_are_known_from_their_first_rating_on(source, tmp_path):
    import_movietweetings(source, tmp_path / "out")
    assert rows(tmp_path / "out" / "items.parquet") == [
        ("54890", "The Hustler", "1961", "[Drama, Sport]", "1960s", "2013-10-16 17:49:04+00"),
        (
            "68646",
            '"The Godfather", Part: One',
            "1972",
            "[Crime, Drama]",
            "1970s",
            "2013-10-16 05:06:40+00",
        ),
        ("99999", "Nobody Rated (Me)", "2001", "[]", "2000s", "2013-10-16 17:50:00+00"),
    ]


def test_broken_lines_are_kept_with_file_and_number(source, tmp_path):
    import_movietweetings(source, tmp_path / "out")
    assert (tmp_path / "out" / "refused.txt").read_text() == (
        "movies.dat:4: nonsense\nratings.dat:6: 3::0068646::8\n"
    )


def test_a_missing_file_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"expected ratings\.dat or .*\(user::movie"):
        import_movietweetings(tmp_path, tmp_path / "out")


def test_a_file_of_another_kind_is_refused(source, tmp_path):
    (source / "ratings.dat").write_text("user,movie\n1,2\n")
    with pytest.raises(InputError, match="expected lines of fields separated by '::'"):
        import_movietweetings(source, tmp_path / "out")
    assert not (tmp_path / "out" / "events.parquet").exists()


@needs_movietweetings
def test_the_real_files(tmp_path):
    report = import_movietweetings(MOVIETWEETINGS, tmp_path / "out")
    assert (report.events, report.items, report.refused) == (141_695, 12_611, 0)
    with duckdb.connect() as con:
        counts = con.execute(
            f"select action, count(*) from '{tmp_path}/out/events.parquet' group by 1 order by 1"
        ).fetchall()
    with gzip.open(MOVIETWEETINGS / "ratings.dat.gz", "rt") as file:
        ratings = [int(line.split("::")[2]) for line in file]
    assert dict(counts) == {
        "APPLY": sum(rating >= 8 for rating in ratings),
        "SAVE": sum(6 <= rating <= 7 for rating in ratings),
        "DISMISS": sum(rating <= 5 for rating in ratings),
    }
