"""Rows become one array per column, in which a column without values takes no work."""

from handlers.query_arguments import column_arrays


def test_a_column_of_nothing_but_none_is_an_empty_array() -> None:
    assert column_arrays([(1, None, "a"), (2, None, None)]) == [(1, 2), (), ("a", None)]
