"""Docstrings as the site shows them: formulas set, examples in blocks.

An extension of Griffe. In the source a formula is code at the beginning of a
paragraph, or a block that is indented, and an example is a doctest. Here a
formula becomes a block of its own, with indices below the line and exponents
above it, and an example a fenced block.
"""

import html
import re
import textwrap

import griffe

# What a formula has and a name, a shape or a call has not.
OPERATOR = re.compile(r" (?:=|\+|\*|/|-|\|\||\.) |\bsum_|^-")
# A formula that a paragraph begins with, and what follows it.
LEADING = re.compile(r"`([^`]+)`(?:\.|,(?! or\b)|:)?(?:\s+|$)(.*)", re.DOTALL)
SIGNS = {
    "->": "→",
    "<-": "←",
    "<=": "≤",
    ">=": "≥",
    "!=": "≠",
    "||": "‖",
    " * ": " · ",
    " . ": " · ",
}
# An index of one or two letters, or of a letter; `log_probs` is a name.
INDEX = r"\{[^{}]+\}|[A-Za-z0-9]{1,2}(?![A-Za-z0-9_])"
OF_A_LETTER = r"[A-Za-z0-9]+(?![A-Za-z0-9_])"
EXPONENT = r"\([^()]+\)|-?\w+(?:/\w+)?"


def set_formula(text):
    """Return HTML of a formula, line by line as it is written."""
    text = html.escape(text, quote=False)
    for sign, shown_as in SIGNS.items():
        text = text.replace(html.escape(sign, quote=False), shown_as)
    text = re.sub(r"\bsum(?=[ _])", "∑", text)
    text = re.sub(rf"(?<=[\w∑)])_({INDEX})", below, text)
    text = re.sub(rf"\^({EXPONENT})", above, text)
    kind = "formula lines" if "\n" in text else "formula"
    return f'<pre class="{kind}">{text}</pre>'


def below(found):
    """Return an index as HTML, without its braces."""
    return f"<sub>{found[1].strip('{}')}</sub>"


def above(found):
    """Return an exponent as HTML, without parentheses around all of it."""
    return f"<sup>{found[1].removeprefix('(').removesuffix(')')}</sup>"


def shown(text):
    """Return a docstring with formulas that are set and examples in fences."""
    done, section, in_fence = [], False, False
    for number, paragraph in enumerate(re.split(r"\n[ ]*\n", text)):
        first = paragraph.splitlines()[0] if paragraph.strip() else ""
        fences = paragraph.count("```")
        if in_fence or fences:
            in_fence ^= fences % 2 == 1
        elif first.startswith(">>> "):
            paragraph = f"```pycon\n{paragraph.rstrip()}\n```"
        elif paragraph.strip() == "Example:":
            paragraph = "**Example**"
        elif first.startswith("    ") and not section:
            paragraph = set_formula(textwrap.dedent(paragraph.rstrip()))
        elif number and not section:
            paragraph = with_formula_apart(unquoted(paragraph))
        else:
            paragraph = unquoted(paragraph)
        done.append(paragraph)
        # `Args:` and its like: what is indented below them is theirs.
        if not paragraph.startswith(" "):
            section = re.match(r"[A-Z][a-z]+:\n? ", paragraph + " ") is not None
    return "\n\n".join(done)


def unquoted(paragraph):
    """Return a paragraph whose `name: >= 0` is no quotation."""
    start = r"^( *(?:[\w*, ]+: )?)>"
    return re.sub(start, r"\1\>", paragraph, flags=re.MULTILINE)


def with_formula_apart(paragraph):
    """Return a paragraph that begins with a formula as the formula and it."""
    found = LEADING.match(paragraph)
    if not found or not OPERATOR.search(found[1]):
        return paragraph
    if found[2] and paragraph[found.end(1) + 1] not in ".,:":
        return paragraph
    lines = [line.strip() for line in found[1].splitlines()]
    return f"{set_formula(' '.join(lines))}\n\n{found[2]}".rstrip()


class Blocks(griffe.Extension):
    """Rewrites each docstring when it has been read."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = shown(obj.docstring.value)
