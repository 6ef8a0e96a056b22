"""Figures as PNG without a browser: what plotly was told is what stands in the picture."""

import io
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.subplots import make_subplots

from softvq_lab.figure_png import figure_png

NOTEBOOKS = sorted((Path(__file__).parent.parent / "nbs").rglob("*.ipynb"))
BARE = dict(width=400, height=300, margin=dict(l=20, r=20, t=20, b=20), template="none")
HIDDEN = dict(visible=False)


def pixels(fig) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure_png(fig))).convert("RGB")).astype(int)


def bare(*traces, **layout) -> go.Figure:
    "A figure without axes, titles and legends."
    fig = go.Figure(traces).update_layout(**BARE, showlegend=False)
    return fig.update_xaxes(**HIDDEN).update_yaxes(**HIDDEN).update_layout(**layout)


def where(image: np.ndarray, colour: tuple) -> np.ndarray:
    "Rows and columns (N, 2) of the pixels of a colour, as fractions of what is drawn."
    at = np.argwhere(np.abs(image - colour).max(-1) < 12)
    drawn = np.argwhere(image.min(-1) < 250)
    low, high = drawn.min(0), drawn.max(0)
    return (at - low) / (high - low)


def mark(x, y, colour: str, **look) -> go.Scatter:
    return go.Scatter(x=[x], y=[y], mode="markers", marker=dict(color=colour, size=9, **look))


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)
CORNERS = [mark(0, 0, "black"), mark(100, 100, "black")]


@pytest.mark.parametrize(
    "axes, place",
    [
        ({}, (0.75, 0.9)),  # a row from above, a column from the left
        (dict(yaxis_autorange="reversed"), (0.25, 0.9)),
        (dict(xaxis_range=[100, 0]), (0.75, 0.1)),
    ],
)
def test_a_point_is_where_its_numbers_say(axes, place):
    fig = bare(*CORNERS, mark(90, 25, "red")).update_layout(**axes)
    assert where(pixels(fig), RED).mean(0) == pytest.approx(place, abs=0.02)


def test_a_logarithmic_axis_has_decades_of_equal_length():
    ends = [mark(1, 0, "black"), mark(1000, 1, "black")]
    fig = bare(*ends, mark(10, 0.5, "red")).update_xaxes(type="log")
    assert where(pixels(fig), RED).mean(0)[1] == pytest.approx(1 / 3, abs=0.02)


def test_the_range_of_a_logarithmic_axis_is_given_in_decades():
    fig = bare(go.Scatter(x=[10, 10], y=[0, 1], line=dict(color="red", width=8)))
    fig.update_layout(xaxis=dict(type="log", range=[0, 2], visible=True))
    columns = np.argwhere(np.abs(pixels(fig) - RED).max(-1) < 12)[:, 1]
    assert columns.std() < 4 and abs(columns.mean() - 200) < 25


@pytest.mark.parametrize("order, place", [(None, 0), (["b", "a"], 1)])
def test_categories_stand_in_their_order(order, place):
    fig = bare(mark("a", 0, "red"), mark("b", 1, "blue")).update_xaxes(categoryarray=order)
    assert where(pixels(fig), RED).mean(0)[1] == pytest.approx(place, abs=0.05)


def test_cells_of_a_heat_map_have_the_colours_of_its_scale():
    scale = [[0, "rgb(255, 255, 255)"], [0.5, "#0000ff"], [1, "red"]]
    fig = bare(go.Heatmap(z=[[0, 1], [2, None]], colorscale=scale, showscale=False))
    image = pixels(fig)
    height, width = image.shape[:2]
    at = {
        (i, j): image[int(height * (0.75 - 0.5 * i)), int(width * (0.25 + 0.5 * j))]
        for i in (0, 1)
        for j in (0, 1)
    }
    assert at[0, 0].tolist() == [255, 255, 255]
    assert at[0, 1] == pytest.approx(BLUE, abs=3)
    assert at[1, 0] == pytest.approx(RED, abs=3)
    assert at[1, 1].tolist() == [255, 255, 255]  # there is no value


def test_a_shared_colour_axis_has_one_range_and_one_bar():
    fig = make_subplots(1, 2)
    for column, z in enumerate(([[0, 1]], [[1, 2]]), 1):
        fig.add_heatmap(z=z, coloraxis="coloraxis", row=1, col=column)
    look = dict(colorscale=[[0, "red"], [1, "blue"]], showscale=False)
    fig.update_layout(**BARE, coloraxis=look).update_xaxes(**HIDDEN).update_yaxes(**HIDDEN)
    without = pixels(fig)
    middle = without[without.shape[0] // 2]
    drawn = middle[middle.min(-1) < 250]
    left, right = drawn[3], drawn[-4]
    assert left == pytest.approx(RED, abs=3) and right == pytest.approx(BLUE, abs=3)
    fig.update_layout(coloraxis_showscale=True)
    assert pixels(fig).shape[1] > without.shape[1] + 15


@pytest.mark.parametrize("mode, highest", [("stack", 0.5), ("group", 1)])
def test_bars_stand_on_or_beside_one_another(mode, highest):
    bars = go.Bar(y=[2], marker_color="red"), go.Bar(y=[2], marker_color="blue")
    image = pixels(bare(*bars).update_layout(barmode=mode, yaxis_range=[0, 4]))
    red, blue = (where(image, colour) for colour in (RED, BLUE))
    assert np.ptp(red[:, 0]) == pytest.approx(highest, abs=0.05)
    assert (red[:, 0].mean() == pytest.approx(blue[:, 0].mean(), abs=0.02)) == (mode == "group")


def test_lying_bars_go_to_the_right():
    fig = bare(go.Bar(x=[1, 3], y=["a", "b"], orientation="h", marker_color=["red", "blue"]))
    image = pixels(fig)
    assert np.ptp(where(image, RED)[:, 1]) == pytest.approx(1 / 3, abs=0.03)
    assert np.ptp(where(image, BLUE)[:, 1]) == pytest.approx(1, abs=0.03)


def test_a_histogram_a_violin_a_fill_and_a_picture_are_drawn():
    values = np.random.default_rng(0).normal(size=200)
    kinds = [
        go.Histogram(x=values, marker_color="red"),
        go.Violin(y=values, line_color="red", name="3"),
        go.Scatter(x=[0, 1, 1], y=[0, 0, 1], fill="toself", fillcolor="red", mode="none"),
        go.Image(z=np.full((4, 4, 3), RED)),
    ]
    for trace in kinds:
        image = pixels(bare(trace))
        reddish = (image[..., 0] > 200) & (image[..., 1] < 160)
        assert reddish.mean() > 0.05, trace.type


def test_shapes_and_words_are_placed_by_paper_panel_or_value():
    fig = bare(*CORNERS)
    corner = dict(x0=50, x1=100, y0=0.5, y1=1, xref="x", yref="y domain")
    fig.add_shape(type="rect", **corner, fillcolor="red", line_width=0)
    red = where(pixels(fig), RED)
    assert red[:, 1].min() == pytest.approx(0.5, abs=0.03) and red[:, 0].max() < 0.55
    words = dict(text="<b>words</b><br>below", showarrow=False, font_color="red")
    fig = bare(*CORNERS).add_annotation(x=0.1, y=0.1, xref="paper", yref="paper", **words)
    at = where(pixels(fig), RED).mean(0)
    assert at[0] > 0.75 and at[1] < 0.3


def test_the_legend_names_what_shows_itself_once():
    fig = make_subplots(1, 2)
    for column in (1, 2):
        named = dict(name="a class", legendgroup="a", showlegend=column == 1)
        fig.add_scatter(y=[0, 1], row=1, col=column, **named)
    fig.update_layout(**BARE)
    with_legend = pixels(fig).shape[1]
    assert with_legend > pixels(fig.update_layout(showlegend=False)).shape[1] + 40


def test_error_bars_reach_as_far_as_they_should():
    bars = dict(array=[1], arrayminus=[3], symmetric=False, color="red")
    fig = bare(go.Scatter(x=[0], y=[0], error_y=bars, marker_color="blue"))
    image = pixels(fig.update_layout(yaxis_range=[-4, 4]))
    red = np.argwhere(np.abs(image - RED).max(-1) < 12)[:, 0]
    blue = np.argwhere(np.abs(image - BLUE).max(-1) < 12)[:, 0].mean()
    assert (red.max() - blue) / (blue - red.min()) == pytest.approx(3, rel=0.1)


def test_one_scale_on_both_axes_stays_one():
    ring = np.exp(2j * np.pi * np.linspace(0, 1, 50))
    fig = bare(go.Scatter(x=ring.real, y=ring.imag, line_color="red"))
    image = pixels(fig.update_yaxes(scaleanchor="x", constrain="domain"))
    at = np.argwhere(np.abs(image - RED).max(-1) < 60)
    assert np.ptp(at[:, 0]) == pytest.approx(np.ptp(at[:, 1]), abs=3)


def test_an_axis_that_may_not_go_below_zero_does_not():
    fig = bare(mark(0, 0, "red"), mark(1, 100, "black")).update_yaxes(rangemode="nonnegative")
    fig.add_shape(type="line", x0=0, x1=1, xref="paper", y0=0, y1=0, line=dict(color="blue"))
    image = pixels(fig)
    assert np.argwhere(np.abs(image - BLUE).max(-1) < 12)[:, 0].mean() > image.shape[0] - 16


def test_packed_arrays_are_read():
    fig = bare(
        *CORNERS, go.Scatter(x=np.array([90.0]), y=np.array([25.0], "f4"), marker_color="red")
    )
    stored = json.loads(fig.to_json())
    assert "bdata" in json.dumps(stored)
    assert figure_png(stored) == figure_png(fig)


def test_another_kind_of_figure_is_refused_with_what_is_possible():
    with pytest.raises(ValueError, match="surface: drawn as PNG are bar, heatmap, .*, violin"):
        figure_png(go.Figure(go.Surface(z=[[1, 2], [3, 4]])))


def stored() -> list:
    "The figures that stand in the notebooks of this repository."
    found = []
    for path in NOTEBOOKS:
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            for output in cell.get("outputs", []):
                if fig := output.get("data", {}).get("application/vnd.plotly.v1+json"):
                    found.append(pytest.param(fig, id=f"{path.stem}-{i}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fig", stored())
def test_every_figure_of_the_notebooks_is_drawn(fig, recwarn):
    image = pixels(fig)
    width, height = fig["layout"].get("width", 700), fig["layout"].get("height", 450)
    assert 0.4 * width < image.shape[1] < 1.5 * width
    assert 0.4 * height < image.shape[0] < 1.3 * height
    assert (image.min(-1) < 200).mean() > 0.002, "nothing was drawn"
    assert not recwarn.list
