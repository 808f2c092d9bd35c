"""`tinyasc explain`: pictures of where in time and frequency a trained model looks."""

from __future__ import annotations

import math
from pathlib import Path

import click

from tinyasc.audio import read_audio
from tinyasc.errors import InputError, ModelFileError
from tinyasc.evaluate.explain import METHODS, Explainer, Explanation
from tinyasc.files import check_writable
from tinyasc.infer.clips import audio_files
from tinyasc.training.run import Run, Trained, newest_teacher, relative

DPI = 120


@click.command("explain")
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "folder",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="A finished training run, or a compression, whose float student is explained [default: the newest training "
    "run of ./runs].",
)
@click.option(
    "--method",
    type=click.Choice([*METHODS]),
    help="Which maps [default: attention or amfm, where the model has it, else gradcam].",
)
@click.option("--class", "classes", metavar="NAME", multiple=True, help="A class to show; repeatable.")
@click.option(
    "--device",
    "devices",
    metavar="NAME",
    multiple=True,
    help="A recording device to tell the model, a row each; repeatable. For models that are conditioned on it.",
)
@click.option(
    "--layer", metavar="NAME", help="Take Grad-CAM at this submodule [default: the last map before the pooling]."
)
@click.option(
    "--at", "start", metavar="S", type=click.FloatRange(min=0), default=0.0, help="Second of the clip to begin at."
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the files go [default: RUN/explained].",
)
@click.pass_context
def command(
    ctx: click.Context,
    clips: tuple[Path, ...],
    folder: Path | None,
    method: str | None,
    classes: tuple[str, ...],
    devices: tuple[str, ...],
    layer: str | None,
    start: float,
    out: Path | None,
) -> None:
    """Draw where in time and frequency a trained model looks.

    CLIP is an audio file, or a folder, which is searched for wav, flac, ogg and mp3. Written are CLIP-METHOD.png and
    CLIP-METHOD.npz, which holds the maps, the features and the answers. A model with attention pooling shows its
    attention to every class, one with attentive max feature maps what its blocks keep, any other Grad-CAM.

    A clip that cannot be read is reported on standard error, the others are drawn, and the exit code is 2.

    \b
    Examples:
      tinyasc explain clip.wav
      tinyasc explain clip.wav --class bus --class tram --run runs/esc10-teacher-1a2b3c4d
      tinyasc explain clip.wav --method gradcam --out pictures
    """  # noqa: D301 (click reads the backspace)
    if not math.isfinite(start):
        raise InputError(f"--at {start:g}: is no second of a clip; give a number, for example 2.5")
    run = newest_teacher(Path("."), option="--run") if folder is None else _run(folder)
    if folder is None:
        click.echo(f"run: {run.path} (newest in ./runs)", err=True)
    trained = run.load()
    out = out or run.path / "explained"
    check_writable(out, "--out")
    explainer = Explainer(
        trained.module,
        trained.front_end,
        trained.labels,
        known_devices=trained.devices,
        method=method,
        classes=classes,
        devices=devices,
        layer=layer,
        decision_weights=trained.recipe.decision_weights,
    )
    taken: set[str] = set()
    failed = False
    for clip in clips:
        try:
            paths = audio_files(clip)
        except InputError as error:
            failed = True
            click.echo(f"error: {error}", err=True)
            continue
        for path in paths:
            try:
                found = _explain(explainer, path, start, run)
            except InputError as error:
                failed = True
                click.echo(f"error: {error}", err=True)
                continue
            click.echo(f"{path}  {_answers(found)}")
            for file in _write(found, trained, path, out / _name(path, found.method, taken)):
                click.echo(f"  written: {relative(file)}")
    if failed:
        ctx.exit(InputError.exit_code)


def _run(folder: Path) -> Run:
    if folder.is_file():
        run = folder.parent if Run(folder.parent).finished else "runs/NAME"
        raise InputError(
            f"{folder}: a file, and only runs can be looked into; name the folder of the float run that a model file "
            f"was made from: --run {run}"
        )
    if not folder.exists():
        raise InputError(f"{folder}: no such run")
    return Run(folder)


def _explain(explainer: Explainer, path: Path, start: float, run: Run) -> Explanation:
    front_end = explainer.front_end
    samples = read_audio(path, front_end.sample_rate, stereo=front_end.stereo)
    rate, length = front_end.sample_rate, samples.shape[-1]
    first = round(start * rate)
    if first >= length:
        raise InputError(f"{path}: is {length / rate:.2f} s long, so it cannot begin at --at {start:g}")
    if length - first > front_end.clip_samples or first:
        end = min(length, first + front_end.clip_samples)
        click.echo(
            f"{path}: seconds {first / rate:.2f} to {end / rate:.2f} of {length / rate:.2f}; --at S takes others",
            err=True,
        )
    try:
        return explainer.explain(samples[..., first:], start=first / rate)
    except ModelFileError as error:  # of the weights, which know nothing of their run
        raise ModelFileError(f"{run.path}: {error}") from None


def _name(path: Path, method: str, taken: set[str]) -> str:
    """The files' name without suffix; clips of one name in several folders are numbered."""
    name, number = f"{path.stem}-{method}", 1
    while name in taken:
        number += 1
        name = f"{path.stem}-{number}-{method}"
    taken.add(name)
    return name


def _write(found: Explanation, trained: Trained, clip: Path, stem: Path) -> list[Path]:
    from tinyasc.evaluate.explain_plots import picture
    from tinyasc.evaluate.plots import write_figure

    files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".npz")]
    run = str(relative(trained.path))
    write_figure(picture(found, trained.front_end, clip=clip.name, model=run), files[0], dpi=DPI)
    found.save(files[1], trained.front_end, {"clip": str(clip), "run": run})
    return files


def _answers(found: Explanation) -> str:
    texts = [
        ", ".join(f"{label} {100 * share:.1f} %" for label, share in found.top(i, 3))
        for i in range(len(found.probabilities))
    ]
    if len(texts) == 1:
        return texts[0]
    return "; ".join(f"{row}: {text}" for row, text in zip(found.rows, texts, strict=True))
