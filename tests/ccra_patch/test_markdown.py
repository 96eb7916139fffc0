"""Tables as Markdown."""

from ccra_patch.markdown import markdown_table, number_cell


def test_columns_are_as_wide_as_their_widest_cell():
    assert markdown_table([["", "a"], ["arm", "12.5 ± 1.0"]]) == (
        "|     | a          |\n| --- | ---------- |\n| arm | 12.5 ± 1.0 |"
    )


def test_a_number_with_its_error_where_there_is_one():
    assert number_cell(0.12345, 0.0678) == "0.123 ± 0.07"
    assert number_cell(0.12345, None) == "0.123"
    assert number_cell(None, None) == "-"
