"""Draw: an action by other actors in other places, beside what words alone draw."""

from typing import Any

import gradio as gr

from twinact.app.studio import MAX_PICTURES, QUICK_STEPS, Sheet, grid
from twinact.app.tabs.common import MODEL, Page, command_box, told
from twinact.configs import MAX_SEED
from twinact.errors import DataError
from twinact.intent.prompts import ACTORS, PLACES


def build(page: Page) -> None:
    """The widgets of the tab, and what they call."""
    pairs = gr.State([])
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            label = page.chooser("Action")
            actors = gr.Dropdown(
                ACTORS, value=["a panda", "a robot"], multiselect=True, allow_custom_value=True, label="Actors"
            )
            places = gr.Dropdown(
                PLACES, value=["in a park", "on the moon"], multiselect=True, allow_custom_value=True, label="Places"
            )
            words = gr.Textbox("", label="Beside it, in words alone", placeholder="jumping (empty: nothing is said)")
            count = gr.Slider(1, 8, value=1, step=1, label="Pictures of each")
            draw = gr.Button("Draw", variant="primary")
            with gr.Accordion("More", open=False):
                prompts = gr.Textbox(
                    "", label="prompt", info="One a line, with <act>; in place of actors and places.", lines=3
                )
                seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=MAX_SEED)
                steps = gr.Number(QUICK_STEPS, label="steps", precision=0, minimum=1, maximum=1000)
                guidance = gr.Number(page.studio.backbone.guidance, label="guidance", minimum=0, maximum=100)
                negative = gr.Textbox("", label="negative_prompt")
                lora = gr.Number(1.0, label="lora_weight", minimum=-10, maximum=10)
        with gr.Column(scale=3, min_width=300):
            pictures = gr.Gallery(
                label="The action",
                columns=4,
                object_fit="contain",
                buttons=["download", "fullscreen"],
                elem_classes="fitted",
            )
            with gr.Column(visible=False) as beside:
                plain = gr.Gallery(
                    label="Words alone", columns=4, object_fit="contain", buttons=["download"], elem_classes="fitted"
                )
                both = gr.ImageSlider(
                    label="Words alone | the action; choose another picture above",
                    interactive=False, buttons=["fullscreen"], type="pil",
                )  # fmt: skip
            command = command_box()

    @told
    def drawn(
        chosen: str | None, who: list[str], where: list[str], said: str, number: float, lines: str, first: float | None,
        denoising: float | None, led: float | None, away: str, strength: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it by its default
    ) -> tuple[Any, ...]:  # fmt: skip
        if not chosen:
            raise DataError("there is no action yet; learn one first")
        own = tuple(line.strip() for line in lines.splitlines() if line.strip())
        sheet = Sheet(
            prompts=own or grid(who, where),
            seeds=tuple(int(first or 0) + i for i in range(int(number))),
            words=said.strip() or None,
            steps=None if denoising is None else int(denoising),
            guidance=led,
            negative_prompt=away,
            lora_weight=1.0 if strength is None else strength,
        )
        if len(sheet.shots) > MAX_PICTURES:
            raise DataError(f"{len(sheet.shots)} pictures were asked for; draw {MAX_PICTURES} at most at once")
        total = 2 * len(sheet.shots)
        action = page.studio.load(chosen)
        with_it = page.studio.draw(sheet, action, lambda done, _: progress((done, total), desc="the action"))
        alone = page.studio.draw(sheet, None, lambda done, _: progress((total // 2 + done, total), desc="words alone"))
        captions = [f"{prompt}, seed {number}" for prompt, number in sheet.shots]
        couples = list(zip(alone, with_it, strict=True))
        return (
            list(zip(with_it, captions, strict=True)),
            list(zip(alone, captions, strict=True)),
            couples[0],
            page.studio.command(sheet, chosen),
            couples,
            gr.Column(visible=True),
        )

    def compared(couples: list[Any], chosen: gr.SelectData) -> Any:
        return couples[chosen.index] if 0 <= chosen.index < len(couples) else gr.skip()

    inputs = [label, actors, places, words, count, prompts, seed, steps, guidance, negative, lora]
    draw.click(drawn, inputs, [pictures, plain, both, command, pairs, beside], **MODEL)
    for gallery in (pictures, plain):
        gallery.select(compared, pairs, both, show_progress="hidden")
