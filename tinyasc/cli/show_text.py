"""What a model file says of itself, for people.

A card is JSON from outside: any of it may be missing or of another type than ours is, and its texts may hold what a
terminal obeys. So every value is looked for, and printed escaped.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from tinyasc.frontend import FrontEnd
from tinyasc.infer.about import About
from tinyasc.printable import printable

WIDTH = 100
INDENT = 14
NOT_STATED = "not stated"
# Keys of the card that the lines below say; what else is there is printed as it is.
SAID = {
    *("about", "arena", "budget", "counts", "data", "distill", "exporter", "limits", "model", "precision"),
    *("quantization", "recipe", "rule", "runtime", "runtimes", "seed", "teacher", "teachers", "temperature"),
    *("temperature_fit", "tinyasc", "validation", "weights_blake2b"),
}


def as_text(about: About) -> str:
    """Lines of a name and what the file says of it; what it does not say is named as such."""
    if about.bundle is None:
        lines = [
            ("file", f"{about.kind}, {about.size:,} bytes"),
            ("hash", f"BLAKE2b {about.blake2b}"),
            (
                "card",
                "none: classes, front end, budget, scores, data, licence and how it was made are not in this file. "
                "`tinyasc infer` takes it where --front-end and --labels name what it was trained with",
            ),
        ]
    else:
        lines = _lines(about, about.bundle.labels, about.bundle.card)
    return "\n".join([printable(str(about.path)), *(_wrapped(name, text) for name, text in lines)])


def _lines(about: About, labels: tuple[str, ...], card: Mapping[str, Any]) -> list[tuple[str, str]]:
    front_end = about.front_end
    assert front_end is not None, "a bundle has a front end"
    counts, data, own = (_object(card.get(name)) for name in ("counts", "data", "about"))
    precision = card.get("precision")
    lines = [
        ("file", f"{about.kind}, {_text(precision)}, {about.size:,} bytes"),
        ("classes", f"{len(labels)}: {', '.join(map(_text, labels))}"),
        ("front end", _front_end(front_end)),
        ("input", f"{' x '.join(map(str, front_end.shape))} (channels x mels x frames)"),
        ("counts", _counts(counts, _object(card.get("arena")))),
        ("budget", _budget(_object(card.get("budget")), card)),
        *_scores(_object(card.get("validation")), data),
        ("temperature", _temperature(card)),
        ("data", _data(data)),
        ("licence", _text(own.get("licence"))),
        *((_text(name), _text(value)) for name, value in sorted(own.items()) if name != "licence"),
        ("made", _made(card)),
        ("taught by", _teachers(card)),
        ("hashes", "; ".join(_hashes(about, card))),
    ]
    if others := sorted(set(card) - SAID):
        lines.append(("also", "; ".join(f"{_text(name)} {_text(card[name])}" for name in others)))
    return lines


def _wrapped(name: str, text: str) -> str:
    head = f"  {name:<{INDENT - 2}}"
    if len(name) > INDENT - 3:
        head = f"  {name} "
    return textwrap.fill(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * INDENT, break_on_hyphens=False, break_long_words=False
    )


def _text(value: Any) -> str:
    """Any JSON value on one line without what a terminal obeys; NOT_STATED for none."""
    if value is None:
        return NOT_STATED
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(value if isinstance(value, str) else json.dumps(value))


def _plain(value: Any) -> str:
    """A number that is no amount: without commas."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _front_end(front_end: FrontEnd) -> str:
    f = front_end
    parts = [
        f"{f.sample_rate:,} Hz {'stereo' if f.stereo else 'mono'}, {f.clip_samples / f.sample_rate:g} s "
        f"({f.clip_samples:,} samples)",
        f"{f.n_mels} {'log-mel' if f.log else 'mel power'} bands of {f.fmin:,g} to "
        f"{f.sample_rate / 2 if f.fmax is None else f.fmax:,g} Hz ({f.mel_scale})",
        f"FFT {f.n_fft:,}, {f.window} window {f.win_length:,}, hop {f.hop_length:,}",
    ]
    parts += ["centred"] if f.center else []
    parts += [f"pre-emphasis {f.pre_emphasis:g}"] if f.pre_emphasis else []
    parts += [f"deltas of order {f.deltas}"] if f.deltas else []
    parts.append("normalised per band" if f.band_scale or f.band_offset else "not normalised")
    return f"{'; '.join(parts)}; {f.arithmetic} arithmetic"


def _counts(counts: Mapping[str, Any], arena: Mapping[str, Any]) -> str:
    named = {
        "parameters": "parameters",
        "parameter_bytes": "bytes of constants",
        "quantization_bytes": "bytes of scales and zero points",
        "macs": "MACs per input",
    }
    said = [f"{_text(counts.get(key))} {what}" for key, what in named.items() if key in counts]
    said += [f"{_text(arena['planned'])} bytes of arena, planned"] if "planned" in arena else []
    return ", ".join(said) or NOT_STATED


def _budget(budget: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    limits = card.get("limits")
    said = []
    if "text" in budget:
        used = next((_text(value) for key, value in sorted(budget.items()) if key.startswith("parameter_bytes")), None)
        said.append(f"{_text(budget['text'])}: {used or NOT_STATED} of {_text(budget.get('bytes'))} bytes of constants")
    for limit in limits if isinstance(limits, list) else []:
        if isinstance(limit, dict) and limit.get("name") != "budget":
            said.append(f"{_text(limit.get('name'))} {_text(limit.get('text'))} ({_text(limit.get('origin'))})")
    said += [f"rule {_text(card['rule'])}"] if "rule" in card else []
    return "; ".join(said) or NOT_STATED


def _scores(scores: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    accuracy, mean, loss, clips = (
        _number(scores.get(name)) for name in ("accuracy", "class_average_accuracy", "log_loss", "clips")
    )
    heard = "; these were trained on, so it says nothing of clips that were not" if _trained_on(data) else ""
    on = f"of {clips:,.0f} validation clips{heard}" if clips is not None else f"of clips {NOT_STATED}"
    classes = "" if mean is None else f" (mean over classes {100 * mean:.1f} %)"
    return [
        ("accuracy", NOT_STATED if accuracy is None else f"{100 * accuracy:.1f} %{classes} {on}"),
        ("log loss", NOT_STATED if loss is None else f"{loss:.3f} on the same clips"),
    ]


def _trained_on(data: Mapping[str, Any]) -> bool:
    return data.get("trained_on_validation_clips") is True


def _temperature(card: Mapping[str, Any]) -> str:
    if "temperature" not in card:
        return f"{NOT_STATED}, so 1"
    about = _object(card.get("temperature_fit")).get("about")
    return _text(card["temperature"]) + ("" if about is None else f" ({_text(about)})")


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return NOT_STATED
    said = [_text(data.get("name"))]
    said += ["synthetic: computed, not recorded"] if data.get("synthetic") is True else []
    said += [f"test fold {_text(data['test_fold'])}"] if data.get("test_fold") is not None else []
    said += ["no test clips held out"] if "test_fold" in data and data["test_fold"] is None else []
    for key, what in (("train_clips", "training clips"), ("validation_clips", "validation clips")):
        said += [f"{_text(data[key])} {what}"] if key in data else []
    said += ["trained on the validation clips too"] if _trained_on(data) else []
    said += [f"without {_text(data['leave_out'])}"] if data.get("leave_out") else []
    devices = data.get("devices_heard")
    named = [_text(device) for device in devices if device] if isinstance(devices, list) else []
    said += [f"devices {', '.join(named)}"] if named else []
    return ", ".join(said)


def _made(card: Mapping[str, Any]) -> str:
    said = [f"tinyasc {_text(card['tinyasc'])}"] if "tinyasc" in card else []
    said += [f"recipe {_text(card['recipe'])}"] if "recipe" in card else []
    said += [f"seed {_plain(card['seed'])}"] if "seed" in card else []
    said += [_family(card["model"])] if "model" in card else []
    how = _object(card.get("quantization"))
    said += [_text(how["how"])] if "how" in how else []
    if epochs := _number(how.get("qat_epochs")):
        said.append(f"{epochs:g} epochs of quantisation-aware training")
    said += [_text(card[name]) for name in ("exporter", "runtime") if name in card]
    versions = _object(card.get("runtimes"))
    said += [f"with {', '.join(f'{_text(name)} {_text(v)}' for name, v in versions.items())}"] if versions else []
    return "; ".join(said) or NOT_STATED


def _teachers(card: Mapping[str, Any]) -> str:
    listed = card.get("teachers", [card["teacher"]] if "teacher" in card else None)
    if not isinstance(listed, list):
        return NOT_STATED
    said = [f"{_text(_object(t).get('recipe'))} ({_family(_object(t).get('model'))})" for t in listed]
    distill = _object(card.get("distill"))
    how = [f"{name} {_text(distill[name])}" for name in ("kd_lambda", "temperature", "teacher_on") if name in distill]
    return "; ".join(said + how) or "none, from labels alone"


def _family(model: Any) -> str:
    options = dict(_object(model))
    family = _text(options.pop("family", None))
    return " ".join([family, *(f"{_text(key)}={_plain(value)}" for key, value in options.items())])


def _hashes(about: About, card: Mapping[str, Any]) -> list[str]:
    """The file's own, and every one that its card holds, whatever it is of."""
    found = [f"file BLAKE2b {about.blake2b}"]

    def look(value: Any, where: str) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            name = f"{where} {key + 1 if isinstance(key, int) else key}".strip()
            if isinstance(inner, dict | list):
                look(inner, name)
            elif isinstance(inner, str) and any(mark in str(key) for mark in ("blake2b", "sha256", "hash")):
                found.append(f"{printable(name)} {printable(inner)}")

    look(card, "")
    return found
