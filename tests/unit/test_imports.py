"""What a command does not need is not imported: most of a short command's time goes into its imports."""

import subprocess
import sys

SLOW_LIBRARIES = ("aiohttp", "jinja2", "openpyxl", "pygal", "xlsxwriter")


def test_a_command_starts_without_the_libraries_of_others() -> None:
    program = f"import sys, cli.main; print(*sorted(set(sys.modules) & set({SLOW_LIBRARIES})))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"
