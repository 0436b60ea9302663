"""List the commands of the suite.

python -m experiments
"""

import ast
import sys
from pathlib import Path


def commands() -> dict[str, str]:
    """Return the first line of each command's docstring, by the command's name.

    The files are only read. Importing them would take seconds.
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        source = path.read_text()
        if '\nif __name__ == "__main__":\n' in source:
            docstring = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = docstring.partition("\n")[0]
    return found


def main() -> None:
    """Print the commands. Any argument but --help is refused with the right spelling."""
    listed = commands()
    given = sys.argv[1:]
    if given and given[0] not in ("-h", "--help"):
        name = given[0].removeprefix("experiments.")
        known = f"write python -m experiments.{name}"
        unknown = f"there is no such command; choose from {', '.join(listed)}"
        print(
            f"error: {given[0]}: {known if name in listed else unknown}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    width = max(map(len, listed))
    for name, purpose in listed.items():
        print(f"python -m experiments.{name:<{width}}  {purpose}")
    print("\nEach has --help.")


if __name__ == "__main__":
    main()
