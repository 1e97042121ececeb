"""Mix: an action moved by named sliders, pulled towards phrases, joined with another one, and drawn at once."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from twinact.app.mixing import Mix, commands
from twinact.app.studio import QUICK_STEPS, Sheet
from twinact.app.tabs.common import MODEL, Call, Page, command_box, told
from twinact.configs import MAX_SEED, check_name
from twinact.errors import DataError
from twinact.runs.folder import PREVIEW_PROMPTS
from twinact.space.limbs import PARTS
from twinact.space.sliders import SLIDERS

_FIRST = ("arms up", "legs apart", "knees bent", "lean left")


def build(page: Page) -> None:
    """The widgets of the tab, and what they call."""
    before = gr.State((None, None))
    sliders: dict[str, gr.Slider] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            base = page.chooser("Action")
            for name in _FIRST:
                sliders[name] = _slider(name)
            toward = gr.Dropdown(
                list(page.studio.space.phrases), value=None, label="More like", allow_custom_value=True
            )
            amount = gr.Slider(0, 1, value=0.5, step=0.05, label="How much more")
            with gr.Row():
                reset = gr.Button("Reset", min_width=90)
                save = gr.Button("Save as a new action", variant="primary", min_width=160)
            with gr.Accordion("Single limbs", open=False):
                for name in SLIDERS:
                    if name not in _FIRST:
                        sliders[name] = _slider(name)
            with gr.Accordion("A second action", open=False):
                other = page.chooser("action", empty=True)
                part = gr.Dropdown(
                    ["", *PARTS], value="", label="parts", info="What the second action gives; empty: both are summed."
                )
                balance = gr.Checkbox(True, label="balance the sum")
                own = gr.Slider(-2, 2, value=1, step=0.1, label="weights: of the first")
                its = gr.Slider(-2, 2, value=1, step=0.1, label="weights: of the second")
            with gr.Accordion("Picture and name", open=False):
                prompt = gr.Textbox(PREVIEW_PROMPTS[0], label="prompt")
                seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=MAX_SEED)
                steps = gr.Number(QUICK_STEPS, label="steps", precision=0, minimum=1, maximum=1000)
                wanted = gr.Textbox("", label="name", placeholder="made from the action's name", max_length=28)
        with gr.Column(scale=3, min_width=300, elem_classes="first-on-phones"):
            with gr.Row():
                was, now = (
                    gr.Image(
                        label=label,
                        alt_text=told_of,
                        interactive=False,
                        buttons=["download"],
                        type="pil",
                        elem_classes="scaled",
                    )
                    for label, told_of in (("Before", "the action before it is mixed"), ("Now", "the mixed action"))
                )
            remark = gr.HTML("<p class='hint'>Left and right are the actor's own.</p>")
            command = command_box()

    def mix_of(
        label: str | None, phrase: str | None, share: float, second: str | None, limb: str, balanced: bool,
        first_weight: float, second_weight: float, *amounts: float,
    ) -> Mix:  # fmt: skip
        return Mix(
            base=label or "",
            other=second or None,
            weights=None if balanced or limb else (first_weight, second_weight),
            part=limb or None,
            sliders=dict(zip(sliders, amounts, strict=True)),
            toward=phrase or None,
            amount=share,
        )

    @told
    def drawn(
        cached: tuple[Any, Any], text: str, number: float | None, denoising: float | None, *parts: Any
    ) -> tuple[Any, ...]:
        mix = mix_of(*parts)
        if not mix.base:
            return None, None, "<p class='hint'>There is no action yet; learn one first.</p>", "", cached
        sheet = Sheet(prompts=(text,), seeds=(int(number or 0),), steps=int(denoising or QUICK_STEPS))
        key = (mix.base, sheet)
        old = cached[1] if cached[0] == key else page.studio.draw(sheet, page.studio.load(mix.base))[0]
        action, off = page.studio.mix(mix)
        new = page.studio.draw(sheet, action)[0] if mix.moves else old
        told_near = ", ".join(
            f"{phrase} {share:.0%}" for phrase, _, share in action.explain(page.studio.space, 4).phrases
        )
        words = f"<p class='hint'>Nearest phrases: {escape(told_near)}.</p>"
        words += f"<p class='bad'>{escape(off[0].upper() + off[1:])}.</p>" if off else ""
        return old, new, words, _commands(page, mix, f"{mix.base.rpartition('/')[2]}-mix"), (key, old)

    @told
    def saved(chosen: str, *parts: Any) -> tuple[Any, ...]:
        mix = mix_of(*parts)
        if not mix.moves:
            raise DataError("nothing is moved yet; move a slider, or choose a phrase or a second action")
        stem = page.studio.load(mix.base).name[:22]
        name = chosen.strip() or page.folder.free_name(f"{stem}-mix")
        check_name(name)
        action, _ = page.studio.mix(mix, name)
        action.save(page.folder.mixed(name), new=True)
        return f"<p class='hint'>{escape(name)} is saved; Draw and Space have it.</p>", _commands(page, mix, name), ""

    given = [base, toward, amount, other, part, balance, own, its, *sliders.values()]
    looks = [before, prompt, seed, steps, *given]
    shown = [was, now, remark, command, before]
    changes = [one.change for one in (*given, prompt, seed, steps)]
    gr.on(changes, drawn, looks, shown, trigger_mode="always_last", show_progress="minimal", **MODEL)
    page.on_show["Mix"] = Call(drawn, looks, shown, MODEL)
    neutral = [0.0] * len(sliders)
    reset.click(lambda: (None, 0.5, None, "", *neutral), None, [toward, amount, other, part, *sliders.values()])
    page.renew(save.click(saved, [wanted, *given], [remark, command, wanted], **MODEL).then)


def _slider(name: str) -> gr.Slider:
    return gr.Slider(-1, 1, value=0, step=0.05, label=name, info=SLIDERS[name].help, buttons=["reset"])


def _commands(page: Page, mix: Mix, name: str) -> str:
    """The commands that make the mix; empty where nothing is moved."""
    labels = [label for label in (mix.base, mix.other) if label is not None]
    files = {label: page.folder.told(page.folder.action(label)) for label in labels}
    names = {label: page.studio.load(label).name for label in labels}
    out = Path(page.folder.told(page.folder.mixed(name[:28])))
    return "\n".join(commands(mix, files, names, page.studio.model, out))
