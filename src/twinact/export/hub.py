"""Gives actions to others and takes theirs, through repositories on the Hugging Face hub, each with a model card."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinact import __version__
from twinact.action import Action
from twinact.errors import ConfigError, DataError, first_line
from twinact.export.personal import bare_picture, without_exemplars
from twinact.export.target import Base
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.storage import ACTION_SUFFIX, SPACE_SUFFIX, read_file, write_all_new

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PATTERNS = (f"*{ACTION_SUFFIX}", f"*{SPACE_SUFFIX}")
_MAX_BYTES = 500_000_000
MAX_PICTURES = 12


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What goes into a repository.

    Attributes:
        action: Its captions and hashes of exemplars are left out.
        space: File of the space that the action lies in, so that others can move it; None for an action in none.
        base: Base of the model.
        pictures: Files of drawn pictures that the card shows; they lose all text.
        exemplar_licence: Under which terms the exemplars were used, and that people in them agreed.
        licence: Licence of the action itself, as the hub calls it.
    """

    action: Action
    space: Path | None
    base: Base
    pictures: Sequence[Path]
    exemplar_licence: str
    licence: str = "other"


def push(offer: Offer, repository: str, *, private: bool = False) -> str:
    """Put an action with its card into a repository, which is made if it is missing; one commit.

    Args:
        offer: What others get.
        repository: "owner/name".
        private: Whether a new repository is to be seen by its owner alone.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: The name is none, there are too many pictures, or nothing is said about the exemplars.
        DataError: The hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_name(repository)
    files = contents(offer, repository)
    with _explained(repository):
        api = HfApi(library_name="twinact", library_version=__version__)
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        done = api.create_commit(repository, operations, commit_message=f"Action {offer.action.name}")
    return str(done.commit_url)


def pull(repository: str, folder: Path, revision: str | None = None) -> list[Path]:
    """Take the actions of a repository, with their spaces, and write them into a folder.

    Args:
        repository: "owner/name".
        folder: Receives the files under their own names; none of them may be there.
        revision: A branch, tag or commit; the newest if None.

    Returns:
        The files of the actions.

    Raises:
        ConfigError: The name is none.
        DataError: The repository cannot be had, or holds no action.
        CheckpointError: A file in it is damaged, or none of ours; nothing is written.
        NameTaken: A file is there.
    """
    from huggingface_hub import snapshot_download

    _check_name(repository)
    with _explained(repository):
        place = Path(snapshot_download(repository, revision=revision, allow_patterns=list(_PATTERNS)))
    found = sorted(path for pattern in _PATTERNS for path in place.glob(pattern))
    actions = [path for path in found if path.name.endswith(ACTION_SUFFIX)]
    if not actions:
        raise DataError(f"repository {repository!r} holds no action of twinact; check its name")
    for path in found:
        (Action if path in actions else ActionSpace).load(path)
    write_all_new({folder / path.name: read_file(path.resolve(), _MAX_BYTES) for path in found})
    return [folder / path.name for path in actions]


def contents(offer: Offer, repository: str) -> dict[str, bytes]:
    """What `push` puts into a repository, by file; errors as there."""
    if not offer.exemplar_licence.strip():
        raise ConfigError("say under which licence the exemplars were used: --exemplar-licence 'my own photographs'")
    if len(offer.pictures) > MAX_PICTURES:
        raise ConfigError(f"{len(offer.pictures)} pictures are too many for a card: give at most {MAX_PICTURES}")
    with tempfile.TemporaryDirectory(prefix="twinact-") as place:
        file = without_exemplars(offer.action).save(Path(place) / f"{offer.action.name}{ACTION_SUFFIX}")
        files = {file.name: file.read_bytes()}
    if offer.space is not None:
        files[SPACE_FILE] = read_file(offer.space, _MAX_BYTES)
    shown = [f"pictures/{number:02d}{path.suffix.lower()}" for number, path in enumerate(offer.pictures, 1)]
    files |= {name: bare_picture(path) for name, path in zip(shown, offer.pictures, strict=True)}
    return files | {"README.md": card(offer, repository, shown).encode()}


def card(offer: Offer, repository: str, pictures: Sequence[str]) -> str:
    """The model card: what it is, how to use it, how it was learned, what it is for and what not.

    Args:
        offer: What the repository holds.
        repository: Its name.
        pictures: Names of the pictures in it.
    """
    from huggingface_hub import ModelCardData

    action, base = offer.action, offer.base
    model = action.model_id.partition("@")[0]
    data = ModelCardData(
        license=offer.licence,
        library_name="twinact",
        pipeline_tag="text-to-image",
        tags=["twinact", "action", base.architecture],
        base_model=model if _NAME.fullmatch(model) else None,
    )
    config = action.meta.get("config") or {}
    rows: dict[str, Any] = {
        "model": f"{base.architecture} (`{action.model_id}`)",
        "method": config.get("method", "not known"),
        "steps": config.get("steps", "not known"),
        "seed": config.get("seed", "not known"),
        "exemplars": len(action.meta.get("exemplars") or []) or "not known",
        "token vectors": action.slots,
        "LoRA": ", ".join(sorted(action.lora_parts)) or "none",
        "made with": f"twinact {(action.meta.get('versions') or {}).get('twinact', __version__)}",
    }
    if offer.space is not None and action.coefficients is not None:
        near = action.explain(ActionSpace.load(offer.space)).phrases
        rows["nearest phrases"] = ", ".join(f"{text} ({similarity:.2f})" for text, similarity, _ in near)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    shown = "\n".join(f"![Drawn with the action]({name})" for name in pictures) or "No pictures were given."
    return f"""---
{data.to_yaml()}
---

# {action.name}

An action for text-to-image models, learned from a few pictures with twinact: it says what somebody does, and not who
does it or where.

{shown}

## Use

    twinact pull {repository} --out {action.name}
    twinact generate {action.name}/{action.name}{ACTION_SUFFIX} --model MODEL --prompt "a panda <act> on the moon"

`MODEL` is the model below, as a folder in diffusers layout or a name. `twinact export` makes files for ComfyUI, A1111,
Forge, InvokeAI and diffusers of it.

## How it was learned

| | |
|---|---|
{table}

Exemplars: {offer.exemplar_licence.strip()}. The files hold neither the exemplars nor their captions.

## Intended use

Drawing made-up or consenting actors in this action. It is not meant for pictures of real people without their consent,
for sexual pictures of them, or to make anyone appear to have done what they have not. Whoever draws with it answers for
the pictures, and says that they are made by a machine where that is not plain. Actors that the model does not know, and
limbs that the exemplars did not show, may come out wrong.
"""


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise ConfigError(f"repository {repository!r} must be owner/name, as in 'anna/leap'")


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turns the errors of the hub's client into one that says what to do."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, LocalTokenNotFoundError) as error:
        why = "is not there, or not for you: check the name, and log in with 'hf auth login'"
        raise DataError(f"repository {repository!r} {why}") from error
    except HfHubHTTPError as error:
        code: Any = getattr(error.response, "status_code", None)
        way = "log in with 'hf auth login' as somebody who may write" if code in (401, 403) else "try again later"
        raise DataError(f"the hub refuses {repository!r} ({first_line(error)}): {way}") from error
    except Exception as error:  # transport errors are those of the client's HTTP library
        raise DataError(
            f"the hub cannot be reached for {repository!r} ({first_line(error)}): check the line"
        ) from error
