"""Examples that the help of each command ends with; tests run them in this order in one folder."""

FIRST = """\
twinact learns an action from a few pictures and has a text-to-image model draw anyone doing it.

  twinact doctor            is everything there?
  twinact demo              watch it at work on the model that comes with it, in minutes
  twinact learn leap/       learn from three to ten pictures of your own, with captions beside them
  twinact generate runs/leap/leap.action.safetensors --prompt "a panda <act> on the moon"

twinact --help lists all commands, twinact COMMAND --help tells about one.
"""
"""What ``twinact`` alone says."""

_ACTION = "runs/leap/leap.action.safetensors"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "doctor": ("twinact doctor", "twinact doctor --json"),
    "read": ("twinact read leap/ --out sheet.png",),
    "learn": (
        "twinact learn leap/ --dry-run",
        "twinact learn leap/",
        "twinact learn leap/ --steps 0 --name leap-at-once",
    ),
    "generate": (
        f'twinact generate {_ACTION} --prompt "a panda <act> on the moon" --count 4',
        f'twinact generate {_ACTION} --prompt "a panda <act>" --prompt "a robot <act> in a park" --dry-run',
    ),
    "adjust": (
        f'twinact adjust {_ACTION} --slider "left arm up" --amount 0.5 --out higher',
        f'twinact adjust {_ACTION} --toward "hands on hips" --amount 0.4 --out calmer',
    ),
    "combine": (
        f"twinact combine {_ACTION} calmer.action.safetensors --out both",
        f'twinact combine {_ACTION} calmer.action.safetensors --parts "arms of calmer" --out parts',
    ),
    "refine": ("twinact refine parts.action.safetensors --out meant",),
    "explain": (f"twinact explain {_ACTION}",),
    "inspect": (
        f"twinact inspect {_ACTION}",
        "twinact inspect pictures/leap_00000_0.png",
        "twinact inspect runs/leap",
    ),
    "strip": (f"twinact strip {_ACTION} --out bare.action.safetensors",),
    "export": (f"twinact export {_ACTION}",),
    "import": ("twinact import exports/twa-leap.safetensors --name leap-again --out again",),
    "push": (
        f"twinact push {_ACTION} anna/leap --exemplar-licence 'my own photographs' --picture pictures/leap_00000_0.png "
        "--dry-run",
    ),
    "pull": ("twinact pull anna/leap --out leap-of-anna",),
    "demo": ("twinact demo --out demo",),
    "space build": ("twinact space build --out phrases --rank 64 --no-poses",),
    "space show": (
        "twinact space show phrases.space.safetensors",
        'twinact space show runs/leap/phrases.space.safetensors --phrase "hands on hips" --plots plots',
    ),
    "nano train": ("twinact nano train --out runs/nano --set unet.minutes=8",),
    "nano evaluate": ("twinact nano evaluate --prompts 64",),
    "world exemplars": ("twinact world exemplars --out exemplars",),
    "world gallery": ("twinact world gallery --out gallery",),
    "bench tune": ("twinact bench tune --preset smoke --out runs/bench",),
    "bench run": ("twinact bench run --preset smoke --out runs/bench",),
    "bench report": ("twinact bench report --out runs/bench",),
    "app": ("twinact app --folder studio",),
}
