"""Split the text of a migration into its statements."""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
      --[^\n]*                          # a comment to the end of its line
    | /\*.*?\*/                         # a comment that does not nest
    | \b[eE]'(?:[^'\\]|\\.|'')*'        # a string with escapes
    | '(?:[^']|'')*'                    # a string
    | "(?:[^"]|"")*"                    # a quoted name
    | (?<![\w$])(\$(?:[a-z_]\w*)?\$).*?\1   # a dollar-quoted string, such as the body of a function
    | ;
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_COMMENTS: Final = ("--", "/*")


def split_statements(text: str) -> list[str]:
    """The statements of a text in their order, each without its semicolon and the comments around it."""
    statements: list[str] = []
    pieces: list[str] = []
    end = 0

    def close() -> None:
        if statement := "".join(pieces).strip():
            statements.append(statement)
        pieces.clear()

    for token in _TOKEN.finditer(text):
        pieces.append(text[end : token.start()])
        end = token.end()
        if token[0] == ";":
            close()
        elif token[0].startswith(_COMMENTS):
            pieces.append(" ")
        else:
            pieces.append(token[0])
    pieces.append(text[end:])
    close()
    return statements
