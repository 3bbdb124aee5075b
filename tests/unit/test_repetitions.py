"""What goes wrong again and again is said again, at growing intervals."""

from worker.logs import KINDS_MAX, Repetitions


def test_a_line_at_growing_intervals() -> None:
    repetitions = Repetitions(repeat_first_s=60)
    lines = {at_s: line for at_s in range(0, 500, 4) if (line := repetitions.note("the channel closed", at_s))}
    assert lines == {
        0: {"times": 1, "for_s": 0},
        60: {"times": 16, "for_s": 60},
        120: {"times": 31, "for_s": 120},
        240: {"times": 61, "for_s": 240},
        480: {"times": 121, "for_s": 480},
    }


def test_each_kind_has_its_own_count() -> None:
    repetitions = Repetitions(repeat_first_s=60)
    assert repetitions.note("one", 0) == repetitions.note("two", 0) == {"times": 1, "for_s": 0}
    assert repetitions.note("one", 1) is None
    assert repetitions.note("two", 60) == {"times": 2, "for_s": 60}


def test_numbers_make_no_kind() -> None:
    repetitions = Repetitions(repeat_first_s=60)
    assert repetitions.note("unknown delivery tag 7", 0) is not None
    assert repetitions.note("unknown delivery tag 1234", 1) is None


def test_what_stopped_for_long_begins_anew() -> None:
    repetitions = Repetitions(repeat_first_s=60)
    repetitions.note("one", 0)
    assert repetitions.note("one", 60) == {"times": 2, "for_s": 60}
    assert repetitions.note("one", 121) == {"times": 1, "for_s": 0}


def test_kinds_are_bounded() -> None:
    repetitions = Repetitions(repeat_first_s=60)
    for number in range(10 * KINDS_MAX):
        assert repetitions.note("x" * number, 0) is not None
    assert len(repetitions._series) <= KINDS_MAX
