"""Controls whose limits change: what a page asks with the limits of before is no error."""

import gradio as gr
import gradio_client
import pytest
from tabs import address
from tabs.controls import Dropdown, Radio, Slider


@pytest.mark.parametrize("given,taken", [(8, 4), (-2, 1), (3, 3)])
def test_a_slider_takes_the_nearest_possible_value(given, taken):
    assert Slider(1, 4, 2, step=1).preprocess(given) == taken


@pytest.mark.parametrize("kind", [Dropdown, Radio])
@pytest.mark.parametrize("given,taken", [("b", "b"), ("gone", "a"), (None, None)])
def test_a_choice_that_is_gone_is_the_first_one(kind, given, taken):
    assert kind(["a", "b"]).preprocess(given) == taken


def test_of_several_choices_those_stay_that_are_offered():
    some = Dropdown(["a", "b"], multiselect=True)
    assert some.preprocess(["gone", "b"]) == ["b"] and some.preprocess(["gone"]) == []
    assert Dropdown([]).preprocess("gone") is None


def test_what_may_be_typed_is_left_to_the_handler():
    some = Dropdown(["a"], multiselect=True, allow_custom_value=True)
    assert some.preprocess(["gone", "a"]) == ["gone", "a"]


def test_a_page_that_is_late_gets_an_answer():
    "Gradio's own check knows the limits that the session was given, not those of the page."
    with gr.Blocks() as app:
        slider, button = Slider(0, 31, 8, step=1), gr.Button()
        told = gr.Number()
        button.click(lambda s: gr.Slider(maximum=4, value=4), slider, slider, api_name="limit")
        button.click(lambda s: s, slider, told, api_name="ask")
    app.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = gradio_client.Client(app.local_url, verbose=False)
        assert client.predict(30, api_name="/ask") == 30
        client.predict(30, api_name="/limit")
        assert client.predict(30, api_name="/ask") == 4
    finally:
        app.close()


@pytest.mark.parametrize("name", ["tokenizer", "generator"])
def test_every_control_that_a_run_limits_is_one_of_these(trained, monkeypatch, name):
    import explorer

    made = []
    init = address.Address.__init__
    monkeypatch.setattr(
        address.Address, "__init__", lambda self, ctx: (made.append(ctx), init(self, ctx))[1]
    )
    explorer.build(str(trained))
    limited = 0
    for part in [p for parts in made[0].parts.values() for p in parts]:
        for control, how in part.fit(name, {}).items():
            if {"minimum", "maximum", "choices"} & set(how):
                own = isinstance(control, (Slider, Dropdown, Radio))
                assert own or control.allow_custom_value, control.elem_id
                limited += 1
    assert limited > 5
