"""The card as a page: what a model hub shows, and a reader of the folder."""

import json
from collections.abc import Iterable
from typing import Any

README = "README.md"
_SERVING = "https://github.com/keras-smkd/keras-smkd/blob/main/docs/serving.md"


def readme_of(card: dict[str, Any]) -> str:
    """Return a card as Markdown, with the front matter of Hugging Face.

    Only what the card says is in it: a licence, a data set and a language are
    the user's to add.

    Args:
        card: What `model_card.json` holds.
    """
    front = {
        "library_name": card["package"],
        "tags": [
            "keras",
            "classification",
            "noisy-labels",
            "knowledge-distillation",
            card["format"].replace("_", "-"),
        ],
        # Shown beside the model, of those names that the hub knows.
        "metrics": sorted({"accuracy"} & set(card["metrics"] or ())),
    }
    # JSON is YAML, and quotes whatever has to be.
    matter = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    parts = [
        "\n".join(["---", *matter, "---"]),
        f"# {len(card['peers'])} peers that learnt together",
        "Classifiers that learnt from labels, some of them perhaps wrong, and "
        f"from each other, by [{card['package']}]({_home()}) "
        f"{card['package_version']} on Keras {card['keras_version']} "
        f"({card['backend']}). `model_card.json` says the same to programs.",
        "## To run",
        f"The format is `{card['format']}`; [this page]({_SERVING}) has the "
        "code for each.",
        _table(
            ("file", "peers"),
            [
                (row["file"], ", ".join(row["peers"]))
                for row in card["artefacts"]
            ],
        ),
        _table(
            ("input or output", "shape", "type"),
            [
                (row["name"], json.dumps(row["shape"]), row["dtype"])
                for row in [*card["inputs"], *card["outputs"]]
            ],
        ),
        f"{card['num_classes']} classes"
        + (
            ", whose names are the lines of `labels.txt`."
            if card["class_names"]
            else ", without names."
        ),
        "## Peers",
        _table(
            ("peer", "name", "class", "parameters"),
            [tuple(peer.values()) for peer in card["peers"]],
        ),
        f"They took {card['steps']} steps.",
        "## Labels, and what was measured",
    ]
    if card["noise"] is None:
        parts.append("Nothing was said about noise in the labels.")
    else:
        parts.append(
            f"How the labels were made noisy:\n\n{_json(card['noise'])}"
        )
    if card["metrics"]:
        parts.append(_table(("metric", "value"), card["metrics"].items()))
    else:
        parts.append("No metrics were given.")
    if card["distillation"] is not None:
        parts += ["## Settings", _json(card["distillation"])]
    return "\n\n".join(parts) + "\n"


def _home() -> str:
    return _SERVING.split("/blob/")[0]


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return f"```json\n{text}\n```"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(_cell(value) for value in line) + " |"
        for line in lines
    )


def _cell(value: Any) -> str:
    """Return a value that stays in its cell, and is no Markdown or HTML."""
    text = " ".join(str(value).split())
    for sign in "\\|`*<[]":
        text = text.replace(sign, f"\\{sign}")
    return text
