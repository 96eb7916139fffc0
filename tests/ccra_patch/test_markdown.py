"""Tables as Markdown."""

from ccra_patch.markdown import markdown_table


def test_columns_are_as_wide_as_their_widest_cell():
    assert markdown_table([["", "a"], ["arm", "12.5 ± 1.0"]]) == (
        "|     | a          |\n| --- | ---------- |\n| arm | 12.5 ± 1.0 |"
    )
