"""Pictures: what is drawn is what was given."""

import dataclasses

import numpy as np
import pytest
from test_report import by_hand

from keras_smkd import report

pytest.importorskip("matplotlib")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_suspects_are_drawn_with_labels_and_suggestions(rng, tmp_path):
    images = {k: rng.random((3, 4, 3), dtype="float32") for k in (4, 2, 1)}
    figure = report.plot_suspects(
        dataclasses.replace(by_hand(), images=images), columns=2
    )
    assert figure.get_suptitle() == "2 of 5 labels are suspected (40.0%)"
    # Two rows of two, the last one empty.
    assert [axes.get_title() for axes in figure.axes] == [
        "dog\n\N{RIGHTWARDS ARROW} cat",
        "dog\n\N{RIGHTWARDS ARROW} dog",
        "cat\n\N{RIGHTWARDS ARROW} cat",
        "",
    ]
    for axes, index in zip(figure.axes, (4, 2, 1), strict=False):
        np.testing.assert_array_equal(
            axes.images[0].get_array(), report.shown.pixels(images[index])
        )
    figure.savefig(tmp_path / "suspects.png")
    assert (tmp_path / "suspects.png").stat().st_size > 1000


def test_what_has_no_images_is_listed():
    figure = report.plot_suspects(by_hand(), rows=1, columns=2)
    (table,) = figure.axes[0].tables
    cells = {
        place: cell.get_text().get_text()
        for place, cell in table.get_celld().items()
    }
    assert [cells[0, k] for k in range(4)] == [
        "index",
        "label",
        "suggestion",
        "score",
    ]
    assert [cells[2, k] for k in range(4)] == ["0", "cat", "owl", "0.200"]
    assert len(cells) == 12


def test_the_matrix_is_that_of_the_table():
    figure = report.plot_noise_matrix(by_hand())
    axes = figure.axes[0]
    matrix = report.transition_matrix(by_hand())
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix)
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    # By column, then row.
    assert shown == {
        (0, 0): "0.67",
        (1, 0): "0.33",
        (1, 1): "1.00",
        (0, 2): "1.00",
        (3, 3): "1.00",
    }
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["cat", "dog", "owl", "eel"]


def test_the_map_has_every_example():
    confidence, variability = np.array([0.9, 0.1, 0.5]), np.array([0, 0.2, 0.3])
    figure = report.plot_dynamics(confidence, variability, [False, True, False])
    others, selected = figure.axes[0].collections
    np.testing.assert_array_equal(
        others.get_offsets(), [[0.0, 0.9], [0.3, 0.5]]
    )
    np.testing.assert_array_equal(selected.get_offsets(), [[0.2, 0.1]])
    with pytest.raises(ValueError, match=r"all alike. Received: shapes \(3,\)"):
        report.plot_dynamics(confidence, variability[:2])


def test_a_course_has_a_panel_for_each_quantity():
    logs = {
        "loss": [2.0, 1.0],
        "val_loss": [2.5, 1.5],
        "peer_0_accuracy": [0.1, 0.2],
        "peer_1_accuracy": [0.2, 0.3],
        "val_peer_1_accuracy": [0.1, 0.2],
        "selection_rate": [0.0, 0.5],
        "val_ensemble_accuracy": [0.3, 0.4],
    }
    figure = report.plot_history(logs)
    panels = {
        axes.get_title(): [line.get_label() for line in axes.lines]
        for axes in figure.axes
    }
    assert panels == {
        "loss": ["loss", "val_loss"],
        "accuracy": [
            "peer_0_accuracy",
            "peer_1_accuracy",
            "val_peer_1_accuracy",
            "val_ensemble_accuracy",
        ],
        "selection_rate": ["selection_rate"],
    }
    line = figure.axes[0].lines[1]
    assert line.get_xydata().tolist() == [[1.0, 2.5], [2.0, 1.5]]
    with pytest.raises(TypeError, match="`history` must be what `fit` returns"):
        report.plot_history([1.0])
    with pytest.raises(ValueError, match="`history` must have a log"):
        report.plot_history({})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": 0}, "`rows` must be an integer >= 1"),
        ({"columns": 0}, "`columns` must be an integer >= 1"),
    ],
)
def test_wrong_sizes(given, message):
    with pytest.raises(ValueError, match=message):
        report.plot_suspects(by_hand(), **given)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="`table` must have an example"):
        report.plot_suspects(by_hand()[:0])
    with pytest.raises(TypeError, match="`table` must be what"):
        report.plot_suspects([1])
