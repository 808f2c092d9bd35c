"""Files of answers: whatever a kill leaves, the next run ends with the bytes of a run that nothing disturbed."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.infer.answer_file import CsvRows, JsonRows, Origin, open_answers
from tinyasc.infer.batch import Answer, Job
from tinyasc.infer.runner import Prediction

# Bytes of a file's name, as os.fsdecode gives them: all but NUL.
NAMES = st.binary(min_size=1, max_size=12).filter(lambda b: b"\0" not in b and b != b".").map(os.fsdecode)
ORIGIN = Origin("m.tflite", "0" * 32, "exact=False seed=0 tta=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.tflite"
    path.write_bytes(tiny.tflite_int8())
    return path


def job(model, **options):
    return Job(model, {"exact": False}, {"tta": 1, "seed": 0} | options)


def some(n, names=None):
    """n answers, every third an error."""
    random = np.random.default_rng(0)
    found = []
    for i in range(n):
        path = Path(names[i] if names else f'clips/{i:02}, so "called".wav')
        if i % 3 == 2:
            found.append(Answer(path, None, f"{path}: cut off\n here"))
        else:
            found.append(Answer(path, Prediction(tiny.LABELS, random.dirichlet(np.ones(3)), 2, 6), milliseconds=i))
    return found


def run(out, the_job, found):
    """What a command does: appends what is not there."""
    with open_answers(out, tiny.LABELS, the_job) as file:
        for answer in found:
            if str(answer.path) not in file.done:
                file.write(answer)
        return len(file.done), file.errors


def test_csv_has_the_columns_of_a_dcase_output_first(tmp_path, model):
    found = some(3)
    assert run(tmp_path / "new" / "a.csv", job(model), found) == (3, 1)
    with open(tmp_path / "new" / "a.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["filename", "scene_label", *tiny.LABELS, "error", "model", "options"]
    first = found[0].prediction
    assert rows[0][:2] == [str(found[0].path), first.top()[0][0]] and rows[0][5] == ""
    np.testing.assert_allclose([float(cell) for cell in rows[0][2:5]], first.probabilities, rtol=1e-7)
    assert rows[2][1:6] == ["", "", "", "", "cut off here"]
    assert all(len(row[6]) == 32 and row[7] == "exact=False seed=0 tta=1" for row in rows)


def test_json_lines_are_those_that_are_printed_without_their_time(tmp_path, model):
    found = some(3)
    run(tmp_path / "a.jsonl", job(model), found)
    first, _, last = (json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines())
    assert first["label"] == found[0].prediction.top()[0][0]
    assert list(first["probabilities"].values()) == found[0].prediction.probabilities.tolist()
    assert (first["tta"], first["tta_planned"], first["windows"]) == (2, found[0].prediction.planned, 6)
    assert last["error"] == "cut off here" and "label" not in last
    assert set(first) - {"label", "probabilities", "tta", "tta_planned", "windows", "macs"} == set(last) - {"error"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_that_was_cut_anywhere_is_gone_on_with_to_the_same_bytes(tmp_path, model, suffix):
    found, the_job = some(3), job(model)
    whole = tmp_path / f"whole{suffix}"
    run(whole, the_job, found)
    content = whole.read_bytes()
    for end in range(len(content) + 1):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(content[:end])
        assert run(cut, the_job, found) == (3, 1), end
        assert cut.read_bytes() == content, end


@given(names=st.lists(NAMES, min_size=1, max_size=4, unique_by=lambda name: str(Path(name))), end=st.integers(0))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_any_name_of_a_file_is_kept(suffix, names, end, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    model = folder / "m.tflite"
    model.write_bytes(b"a model")
    found, out = some(len(names), names), folder / f"a{suffix}"
    out.unlink(missing_ok=True)
    run(out, job(model), found)
    content = out.read_bytes()
    with open_answers(out, tiny.LABELS, job(model)) as file:
        assert file.done == {str(a.path) for a in found}
    assert out.read_bytes() == content
    out.write_bytes(content[: end % (len(content) + 1)])
    run(out, job(model), found)
    assert out.read_bytes() == content


def test_what_a_power_cut_leaves_of_a_last_row_is_cut_off(tmp_path, model):
    """Blocks that were never written are read as zeros."""
    out, found = tmp_path / "a.csv", some(4)
    run(out, job(model), found)
    content = out.read_bytes()
    out.write_bytes(content[:-30] + bytes(500))
    run(out, job(model), found)
    assert out.read_bytes() == content


def test_rows_behind_a_quote_that_never_closes_are_not_cut_off(tmp_path, model):
    out, found = tmp_path / "a.csv", some(4)
    run(out, job(model), found)
    head, first, *rest = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([head, first, b'"', *rest]))
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"a quote is opened .* and not closed; mend it"):
        run(out, job(model), found[:1])
    assert out.read_bytes() == before


def test_a_table_of_others_with_an_open_quote_is_refused_at_once(tmp_path, model):
    """Every line of it was once searched for quotes anew with all before it: minutes for this one."""
    (tmp_path / "a.csv").write_bytes(b'text,"open\n' + b"a row of a table of others\n" * 100_000)
    before = time.monotonic()
    with pytest.raises(InputError, match="holds something else"):
        run(tmp_path / "a.csv", job(model), some(1))
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: job(m, tta=4),
            r"line \d was answered with exact=False seed=0 tta=1, now it is .*tta=4; give the same",
        ),
        (lambda m: Job(m, {"exact": True}, {"tta": 1, "seed": 0}), "exact=True seed=0 tta=1; give the same options"),
        (
            lambda m: Job(m, {"exact": False, "front_end": tiny.FRONT_END}, {"tta": 1, "seed": 0}),
            "front_end=[0-9a-f]{16} ",
        ),
        (lambda m: job(other_model(m)), r"line \d is of another model file \(BLAKE2b [0-9a-f]{32}, .*other.tflite has"),
    ],
)
def test_another_model_or_other_options_are_refused_and_nothing_is_lost(tmp_path, model, suffix, change, message):
    out, found = tmp_path / f"a{suffix}", some(2)
    run(out, job(model), found)
    # Half a row is not cut off either where the file is refused.
    out.write_bytes(content := out.read_bytes() + b"half a row")
    with pytest.raises(InputError, match=message):
        run(out, change(model), found)
    assert out.read_bytes() == content


def other_model(model):
    (other := model.parent / "other.tflite").write_bytes(tiny.tflite())
    return other


def test_a_model_of_another_place_with_equal_bytes_is_the_same(tmp_path, model):
    (copy := tmp_path / "copy.tflite").write_bytes(model.read_bytes())
    run(tmp_path / "a.csv", job(model), some(2))
    assert run(tmp_path / "a.csv", job(copy), some(4)) == (4, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"filename,scene_label\na.wav,bus\n", "no table of this model's classes"),
        ("a.csv", b"my notes", "holds something else"),
        ("a.csv", b"my\nnotes\n", "no table of this model's classes"),
        ("a.csv", CsvRows(tiny.LABELS, ORIGIN).head + b"a.wav,bus\n", "line 2 is no answer; remove that line"),
        ("a.jsonl", b"my notes", "holds something else"),
        ("a.jsonl", b'{"path": 5}\n', "line 1 is no answer"),
        ("a.jsonl", b"[" * 100000 + b"\n", "line 1 is no answer"),
        ("a.jsonl", b"5\n", "line 1 is no answer"),
        ("a.jsonl", b"\xff\n", "line 1 is no answer"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, model, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        run(tmp_path / name, job(model), some(2))
    assert (tmp_path / name).read_bytes() == content


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_no_line_at_all_crashes_the_readers(line):
    for rows in (CsvRows(tiny.LABELS, ORIGIN), JsonRows(ORIGIN)):
        try:
            clip, error, model, options = rows.read(line)
        except ValueError:
            continue
        assert all(isinstance(text, str) for text in (clip, model, options)) and isinstance(error, bool)


def test_places_that_cannot_be_written_are_refused(tmp_path, model):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "file").touch()
    for name, message in [
        ("folder.csv", "cannot be written to: Is a directory"),
        ("pipe.csv", "no regular file"),
        ("file/a.csv", "cannot be written to: File exists"),
        ("nul\0.csv", "cannot be written to"),
        ("a.txt", r"must end in \.csv or \.jsonl"),
        ("a", r"must end in \.csv or \.jsonl"),
    ]:
        with pytest.raises(InputError, match=message):
            run(tmp_path / name, job(model), some(1))


def test_a_second_process_is_refused(tmp_path, model):
    with open_answers(tmp_path / "a.csv", tiny.LABELS, job(model)), pytest.raises(InputError, match="another process"):
        run(tmp_path / "a.csv", job(model), some(1))
    assert run(tmp_path / "a.csv", job(model), some(1)) == (1, 0)


def test_a_class_that_is_called_as_a_column_is_refused_in_csv_alone(tmp_path, model):
    with (
        pytest.raises(InputError, match=r"take --out FILE\.jsonl"),
        open_answers(tmp_path / "a.csv", ["error"], job(model)),
    ):
        pass
    with open_answers(tmp_path / "a.jsonl", ["error"], job(model)):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a process's files")
def test_a_full_disk_names_the_file_and_keeps_what_is_there(tmp_path, model):
    code = (
        "import resource, signal, sys; sys.path[:0] = [sys.argv[1]]\n"
        "import test_answer_file as t\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n  t.run(Path(sys.argv[2]), t.job(Path(sys.argv[3])), t.some(9))\n"
        "except OSError as e:\n  print(e.filename)\n"
    )
    out = tmp_path / "a.csv"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(out), str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"{out}\n", done.stderr
    assert 0 < out.stat().st_size <= 1000
    run(tmp_path / "whole.csv", job(model), some(9))
    run(out, job(model), some(9))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
