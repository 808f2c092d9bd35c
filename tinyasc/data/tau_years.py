"""What each year's TAU/TUT Urban Acoustic Scenes development set is: labels, devices, lists and official counts.

The lists of 2020 Mobile, 2022 Mobile and the label fractions of 2024 were checked row by row against the published
files. Those of 2018, 2019 and the meta.csv of 2020 3Class were not at hand: their records follow the sets'
descriptions and are marked so (`unchecked`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
MOBILE_DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
# Where the label fractions, a separate download, may have been put.
FRACTION_FOLDERS = ("split_setup/", "evaluation_setup/", "")


@dataclass(frozen=True)
class TauYear:
    """One development set.

    Args:
        name: as in recipes.
        title: of the publication.
        task: the challenge that uses it.
        n_train: official number of training clips.
        n_test: official number of test clips.
        scenes: the labels that may occur; None takes those of meta.csv.
        devices: the devices that may occur; None takes those of meta.csv.
        train: possible places of the training list, the first that is there is read.
        test: the same for the test list.
        header: the training and test lists begin with a row of column names.
        segments: the clips are seconds 0 to 9 of 10-second recordings.
        unchecked: what was not compared with the published files; "" where all was.
    """

    name: str
    title: str
    task: str
    n_train: int | None
    n_test: int | None
    scenes: tuple[str, ...] | None = SCENES
    devices: tuple[str, ...] | None = MOBILE_DEVICES
    train: tuple[str, ...] = ("evaluation_setup/fold1_train.csv",)
    test: tuple[str, ...] = ("evaluation_setup/fold1_evaluate.csv", "evaluation_setup/fold1_test.csv")
    header: bool = True
    segments: bool = False
    unchecked: str = ""


_UNCHECKED = "layout from the set's description, not compared with its files"
_TAU2018A = TauYear(
    "tau2018a",
    "TUT Urban Acoustic Scenes 2018",
    "DCASE 2018 1A",
    6122,
    2518,
    devices=("a",),
    train=("evaluation_setup/fold1_train.txt",),
    test=("evaluation_setup/fold1_evaluate.txt", "evaluation_setup/fold1_test.txt"),
    header=False,
    unchecked=_UNCHECKED,
)
# Train: 6,122 + 540 + 540 of devices a, b, c; test: 2,518 + 180 + 180.
_TAU2018B = replace(
    _TAU2018A,
    name="tau2018b",
    title="TUT Urban Acoustic Scenes 2018 Mobile",
    task="DCASE 2018 1B",
    n_train=7202,
    n_test=2878,
    devices=("a", "b", "c"),
)
_TAU2019A = TauYear(
    "tau2019a",
    "TAU Urban Acoustic Scenes 2019 (stereo)",
    "DCASE 2019 1A",
    9185,
    4185,
    devices=("a",),
    unchecked=_UNCHECKED,
)
# Train: 9,185 + 540 + 540 of devices a, b, c; test: 4,185 + 540 + 540.
_TAU2019B = replace(
    _TAU2019A,
    name="tau2019b",
    title="TAU Urban Acoustic Scenes 2019 Mobile",
    task="DCASE 2019 1B",
    n_train=10265,
    n_test=5265,
    devices=("a", "b", "c"),
)
# Train: 9,185 of the ten scenes and 1,105 of an eleventh class, "unknown"; test: 4,185 and 345.
_TAU2019C = replace(
    _TAU2019A,
    name="tau2019c",
    title="TAU Urban Acoustic Scenes 2019 Openset",
    task="DCASE 2019 1C",
    n_train=10290,
    n_test=4530,
    scenes=(*SCENES, "unknown"),
)
_TAU2020 = TauYear("tau2020", "TAU Urban Acoustic Scenes 2020 Mobile", "DCASE 2020 1A", 13962, 2968)
_TAU2020B = TauYear(
    "tau2020b",
    "TAU Urban Acoustic Scenes 2020 3Class",
    "DCASE 2020 1B",
    9185,
    4185,
    scenes=("indoor", "outdoor", "transportation"),
    devices=("a",),
    unchecked="training and test lists compared with the published files, meta.csv not",
)
_TAU2022 = TauYear("tau2022", "TAU Urban Acoustic Scenes 2022 Mobile", "DCASE 2022 1", 139620, 29680, segments=True)


def _fraction(percent: int, n_train: int, name: str, task: str) -> TauYear:
    lists = tuple(f"{folder}split{percent}.csv" for folder in FRACTION_FOLDERS)
    # All training clips are the official training list; its split100.csv may be there all the same.
    lists = (*lists, *_TAU2022.train) if percent == 100 else lists
    return replace(
        _TAU2022,
        name=name,
        title=f"{_TAU2022.title}, {percent} % of the labels",
        task=task,
        n_train=n_train,
        train=lists,
    )


TAU_YEARS: dict[str, TauYear] = {
    year.name: year
    for year in (
        _TAU2018A,
        _TAU2018B,
        _TAU2019A,
        _TAU2019B,
        _TAU2019C,
        _TAU2020,
        _TAU2020B,
        # 2021's own development set is that of 2020; only its evaluation audio is new.
        replace(_TAU2020, name="tau2021", task="DCASE 2021 1A"),
        _TAU2022,
        replace(_TAU2022, name="tau2023", task="DCASE 2023 1"),
        *(
            _fraction(percent, n_train, f"tau2024_{percent}", "DCASE 2024 1")
            for percent, n_train in ((5, 6980), (10, 13960), (25, 34900), (50, 69800), (100, 139620))
        ),
        _fraction(25, 34900, "tau2025", "DCASE 2025 1"),
    )
}
