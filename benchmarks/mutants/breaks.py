"""The breaks of `breaks/*.txt`: what they change, and who should notice.

A file of breaks is read line by line:

    @ model/labels.py         the file of the package, for all that follow
    # what the break is
    > test_fit.py::test_x     the tests that should fail, one or more
    ! reason                  why none does, of a break that is known to live
     a line that stays
    -a line that goes
    +a line that comes

An empty line ends a break. What stays or goes must be found in the file
exactly once, as whole lines.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

FOLDER = pathlib.Path(__file__).parent / "breaks"
ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Break:
    """One deliberate fault.

    Args:
        file: The file that is changed, from the root of the repository.
        what: What the fault is.
        tests: The tests that should fail, from the root of the repository.
        old: The lines that are replaced.
        new: The lines that replace them.
        reason: Why no test fails; empty where one should.
    """

    file: str
    what: str
    tests: tuple[str, ...]
    old: str
    new: str
    reason: str = ""

    def count(self, source: str) -> int:
        """Return how often the lines that are replaced are there."""
        return f"\n{source}\n".count(f"\n{self.old}\n")

    def apply(self, source: str) -> str:
        """Return the source with the fault in it."""
        broken = f"\n{source}\n".replace(f"\n{self.old}\n", f"\n{self.new}\n")
        return broken[1:-1]


def read_all() -> list[Break]:
    """Return all breaks, in the order of their files' names."""
    return [
        item
        for path in sorted(FOLDER.glob("*.txt"))
        for item in read(path.read_text(encoding="utf-8"))
    ]


def read(text: str) -> Iterator[Break]:
    """Yield the breaks that a text describes.

    Raises:
        ValueError: if a break is not whole.
    """
    file = ""
    for block in text.strip("\n").split("\n\n"):
        marks: dict[str, list[str]] = {mark: [] for mark in "@#>! -+"}
        for line in block.split("\n"):
            marks[line[0]].append(line[1:])
        if marks["@"]:
            file = "keras_smkd/" + marks["@"][0].strip()
            continue
        if not (file and marks["#"] and marks[">"]):
            raise ValueError(f"A break must say all. Received: {block}")
        yield Break(
            file,
            " ".join(line.strip() for line in marks["#"]),
            tuple(
                f"tests/{test}" for line in marks[">"] for test in line.split()
            ),
            _lines(block, " -"),
            _lines(block, " +"),
            " ".join(line.strip() for line in marks["!"]),
        )


def _lines(block: str, marks: str) -> str:
    lines = block.split("\n")
    return "\n".join(line[1:] for line in lines if line[0] in marks)
