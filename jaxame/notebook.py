"""How results look in a notebook: tables whose every text is escaped."""

import html
from collections.abc import Sequence


def table(names: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return an HTML table.

    Args:
      names: of the columns.
      rows: texts, one for each column.
      caption: above the table.
    """
    head = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align: left">{html.escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    title = f'<caption style="text-align: left; caption-side: top">{html.escape(caption)}</caption>'
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
