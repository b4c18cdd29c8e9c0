"""The model card of a checkpoint: what it is, what it was trained and measured on, how to use it.

Everything on the card is read from the checkpoint; what the checkpoint does not tell is said to be
unknown. Names are what users typed, so they are written such that nobody takes them for Markdown,
HTML or YAML.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from zegment.calibration import RELEASED, Calibration
from zegment.errors import CheckpointError
from zegment.hub.card_facts import METRIC_TITLES, CardFacts, is_number, told
from zegment.hub.card_text import code, licence_fields, listed, numbers, one_line, plain

KINDS = {
    "zegclip": "ZegCLIP: a CLIP image tower with trained prompts, a relationship descriptor and a "
    "mask decoder",
    "one_stage": "the one-stage baseline of ZegCLIP: cosines of CLIP's patch and text embeddings",
    "two_stage": "two stages: regions of the picture, each classified by CLIP",
    "dense_clip": "training-free dense CLIP: the last attention layer of its image tower changed",
    "student": "a student that CLIP taught (CLIP-ZSS); it runs without CLIP's image tower",
}
SETTINGS = {
    "inductive": "neither masks nor names of the unseen classes were known in training",
    "transductive": "names of the unseen classes were known in training, and they were learnt from "
    "the model's own predictions",
    "supervised": "every class had masks in training",
}
_MARK = re.compile(r"<!-- zegment-card: ([0-9a-f]{64}) -->\n\Z")


def model_card(
    folder: Path, *, repo_id: str, licence: str | None = None, data_licence: str | None = None
) -> str:
    """Return the model card of a checkpoint: Markdown under YAML front matter.

    Args:
        folder: The checkpoint.
        repo_id: ``USER/NAME`` on the Hub, for the example.
        licence: Of the weights, one of the Hub's names such as ``apache-2.0`` or words of your own;
            None says that it is not known.
        data_licence: Of the training data, in words; None says that it is not known.

    Raises:
        CheckpointError: If a file of the checkpoint is damaged.
    """
    licence = (licence or "").strip() or None
    facts = CardFacts.read(folder, repo_id=repo_id, licence=licence, data_licence=data_licence)
    try:
        sections = [
            f"# {plain(repo_id)}",
            *_summary(facts),
            *_usage(facts),
            *_data(facts),
            *_vocabulary(facts),
            *_preparation(facts),
            *_scores(facts),
            *_limits(),
            *_terms(facts),
        ]
        text = f"---\n{_front_matter(facts)}\n---\n\n" + "\n\n".join(sections) + "\n\n"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} is damaged: a card cannot be written of it ({error!r}); copy or train it "
            "again"
        ) from error
    return f"{text}<!-- zegment-card: {_digest(text)} -->\n"


def is_unedited(card: str) -> bool:
    """Return whether a card is as `model_card` wrote it, so that a new one may replace it."""
    mark = _MARK.search(card)
    return mark is not None and mark[1] == _digest(card[: mark.start()])


def _front_matter(facts: CardFacts) -> str:
    """Return the YAML that the Hub reads, without its fences."""
    clip = str(facts.model.get("clip", ""))
    results = list(_results(facts))
    data = ModelCardData(
        **licence_fields(facts.licence),
        library_name="zegment",
        pipeline_tag="image-segmentation",
        tags=[
            "semantic-segmentation",
            "zero-shot",
            "open-vocabulary",
            *([one_line(facts.model["kind"])] if "kind" in facts.model else []),
            *(["onnx"] if facts.exported else []),
        ],
        base_model=one_line(clip.removeprefix("hf-hub:")) if clip.startswith("hf-hub:") else None,
        model_name=facts.repo_id.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _summary(facts: CardFacts) -> Iterator[str]:
    """Yield what the model is, and what it stands on."""
    kind = str(facts.model.get("kind", "unknown"))
    clip = code(facts.model.get("clip", "unknown"))
    yield (
        "Segments images into classes that are given by name, also ones that it had no masks "
        f"of. The method is {KINDS.get(kind, plain(kind))}."
    )
    if facts.exported:
        yield f"It is an ONNX file, exported from a model on the CLIP {clip}."
    elif kind == "student":
        student = facts.model.get("student", {})
        yield (
            f"The student is {plain(student.get('architecture', '?'))} with the encoder "
            f"{plain(student.get('encoder', '?'))}. Its teacher was the CLIP {clip}, whose "
            "text tower is loaded when words are asked for that it was not trained with."
        )
    elif "tower" in facts.header:
        yield (
            f"It brings its image tower along. The text tower of the CLIP {clip} is loaded "
            "when words are asked for that it was not trained with."
        )
    else:
        yield (
            f"It stands on the CLIP {clip}, which is not part of this repository and is loaded "
            "from where it is published; a fingerprint makes sure that it is the same one."
        )


def _usage(facts: CardFacts) -> Iterator[str]:
    """Yield a program that runs as it stands."""
    extra = "zegment[onnx]" if facts.exported else "zegment"
    classes = "" if facts.vocabulary else ', ["cat", "sofa"]'
    yield "## How to use"
    yield f'```text\npip install "{extra}"\n```'
    yield (
        "```python\nimport zegment\n\n"
        f'segmenter = zegment.load("{facts.repo_id}")\n'
        f'segmenter("photo.jpg"{classes}).overlay().save("overlay.png")\n```'
    )


def _data(facts: CardFacts) -> Iterator[str]:
    """Yield what the model was trained on, and which classes had masks."""
    yield "## Training data"
    if not facts.trained:
        yield "None: the model is CLIP's own, not trained further."
        return
    title = facts.data_title
    source = "not named in the checkpoint" if title is None else plain(title)
    if title == "shapes":
        source = "Shapes, drawn scenes that come with Zegment"
    names, seen = facts.vocabulary["class_names"], facts.vocabulary["seen"]
    unseen = [name for name in names if name not in seen]
    setting = str(facts.config.get("setting", ""))
    # Checkpoints of before there were settings do not say which one it was.
    meaning = f" The setting is {setting}: {SETTINGS[setting]}." if setting in SETTINGS else ""
    yield f"Data: {source}. Licence of the data: {plain(facts.data_licence or 'not stated')}."
    yield (
        f"{len(names)} classes, of which {len(seen)} had masks in training (seen) and "
        f"{len(unseen)} had none (unseen).{meaning}"
    )
    yield f"- Seen: {listed(seen)}\n- Unseen: {listed(unseen)}"


def _vocabulary(facts: CardFacts) -> Iterator[str]:
    """Yield the names in the order of the labels, and the sentences they are put into."""
    if not facts.vocabulary:
        return
    yield "## Vocabulary"
    yield f"In the order of the labels, from 0: {listed(facts.vocabulary['class_names'])}."
    synonyms = facts.vocabulary.get("synonyms") or ()
    for name, others in zip(facts.vocabulary["class_names"], synonyms, strict=False):
        if others:
            yield f"- {plain(name)} is also called {listed(others)}"
    yield "Each name is put into:"
    yield "\n".join(f"- {plain(text)}" for text in facts.vocabulary["templates"])


def _preparation(facts: CardFacts) -> Iterator[str]:
    """Yield how images are prepared, cut up, and how scores are calibrated."""
    table = facts.preprocessing
    if not table:
        return
    windows = table.get("windows", {})
    size = windows.get("short_side")
    resized = "keeps its size" if size is None else f"is resized to a short side of {size}"
    whole = "is looked at as a whole"
    if windows.get("size") is not None:
        whole = (
            f"is looked at in windows of {windows['size']} pixels, one every "
            f"{windows.get('stride') or windows['size']}"
        )
    yield "## Preprocessing"
    yield "\n".join(
        [
            f"- RGB in [0, 1], mean {numbers(table['mean'])}, standard deviation "
            f"{numbers(table['std'])}.",
            f"- An image {resized} and {whole}.",
            *_calibration(facts),
        ]
    )


def _scores(facts: CardFacts) -> Iterator[str]:
    """Yield tables of what was measured, and on what."""
    yield "## Metrics"
    tables = dict(facts.measured())
    if not tables:
        yield "No measurement came with this model."
    for where, scores in tables.items():
        images = scores.get("images")
        count = f", {images} images" if isinstance(images, int) else ""
        rows = [f"| {METRIC_TITLES[k][0]} ({k}) | {v:.1%} |" for k, v in told(scores)]
        yield f"Measured on {plain(where)}{count}:"
        yield "\n".join(["| metric | value |", "| --- | ---: |", *rows])
        classes = [
            f"| {plain(name)} | {value:.1%} |"
            for name, value in (scores.get("per_class") or {}).items()
            if is_number(value)
        ]
        if classes:
            yield "\n".join(["| class | IoU |", "| --- | ---: |", *classes])


def _limits() -> Iterator[str]:
    """Yield what not to expect."""
    yield "## Limits"
    yield "\n".join(
        [
            "- What was measured holds for that data; on other images expect less, and measure.",
            "- Every pixel gets one of the names that were asked for, unless the query has a "
            "background: a name that is not in the picture may still be found.",
            "- A class without masks is told apart by its name only. It is found less "
            "reliably, and a name of two meanings stands for both.",
            "- What the CLIP learnt from pictures and captions of the web, prejudice included, "
            "is in its words for them.",
        ]
    )


def _terms(facts: CardFacts) -> Iterator[str]:
    """Yield the licence."""
    yield "## Licence"
    if facts.licence is None:
        yield (
            "No licence was given for these weights. Ask their author before you use, change "
            "or pass them on; the terms of the data and of the CLIP apply too."
        )
        return
    yield (
        f"The weights are under: {plain(facts.licence)}. The terms of the data and of the CLIP "
        "apply too."
    )


def _calibration(facts: CardFacts) -> Iterator[str]:
    penalty = facts.preprocessing.get("seen_penalty", 0)
    if not penalty:
        yield "- Nothing is taken from the scores of seen classes."
        return
    chosen = str(facts.config.get("calibration", {}).get("chosen_on", "none"))
    origin = RELEASED if chosen == "none" else chosen
    record = Calibration(seen_penalty=penalty, chosen_on=origin).to_dict()
    who = "as the method's authors do" if origin == RELEASED else f"chosen on {plain(origin)}"
    warning = f" ({record['warning']})" if "warning" in record else ""
    yield f"- {penalty:g} is taken from the scores of seen classes, {who}{warning}."


def _results(facts: CardFacts) -> Iterator[EvalResult]:
    for where, scores in facts.measured():
        name, _, split = where.rpartition("/")
        for key, value in told(scores):
            yield EvalResult(
                task_type="image-segmentation",
                dataset_type=one_line(name or where),
                dataset_name=one_line(name or where),
                dataset_split=one_line(split) if name else None,
                metric_type=METRIC_TITLES[key][1],
                metric_name=key,
                metric_value=round(value, 4),
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
