"""The limits that a student has to hold: bytes of parameters, file and RAM, MACs, latency, a board's, a rule's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tinyasc.compress.budget import Budget, parse_budget
from tinyasc.compress.costs import Costs
from tinyasc.compress.rules import Rule, judge, load_rule
from tinyasc.errors import InputError
from tinyasc_firmware_sim.boards import Board, load_board
from tinyasc_firmware_sim.latency import Latency, estimate_latency, load_costs

BITS = ("8", "16", "auto")
NONE = "none"
DEFAULT_BUDGET = "128KB"
# The RAM of an STM32U575 in one piece (decision 0019).
DEFAULT_RAM = "768KB"
DEFAULT_ORIGIN = "default; --{} none lifts it"
WHAT = {
    "budget": "bytes of parameters",
    "flash": "bytes of the file",
    "ram": "bytes of RAM",
    "macs": "MACs per second",
    "latency": "ms of one answer, estimated",
}
TIME_UNITS = {"ms": 1, "s": 1000}
LARGEST_MS = 24 * 3600 * 1000
MAC_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
LARGEST_MACS = 10**15


@dataclass(frozen=True)
class Limit:
    """One limit.

    Args:
        name: a key of `WHAT`.
        text: as typed.
        number: in bytes, MACs per second of sound, or milliseconds.
        origin: the option that set it.
    """

    name: str
    text: str
    number: int
    origin: str


@dataclass(frozen=True)
class Check:
    """One limit held against what was predicted or measured.

    Args:
        name: of the limit; a rule's are "rule memory" and "rule macs".
        what: is counted, in words.
        limit: the number.
        value: predicted or measured.
        met: whether it holds.
        origin: the option that set the limit.
    """

    name: str
    what: str
    limit: int
    value: int
    met: bool
    origin: str

    def words(self) -> str:
        """As one clause: "ram: 700,000 of 786,432 bytes of RAM (default; ...): met"."""
        verdict = "met" if self.met else "NOT MET"
        return f"{self.name}: {self.value:,} of {self.limit:,} {self.what} ({self.origin}): {verdict}"


@dataclass(frozen=True)
class Limits:
    """All limits of one compression, the tightest of each kind.

    Args:
        limits: at most one of each name.
        rule: a competition's, judged as it counts: MACs of one inference without test-time copies.
        copies: of every clip that are answered at test time; they multiply --macs and --latency.
        board: that a limit on latency is for.
    """

    limits: tuple[Limit, ...] = ()
    rule: Rule | None = None
    copies: int = 1
    board: Board | None = None

    @property
    def budget(self) -> Budget | None:
        """The limit on the bytes of parameters, if there is one."""
        return next((Budget(limit.text, limit.number) for limit in self.limits if limit.name == "budget"), None)

    @property
    def label(self) -> str:
        """For the name of a run folder: what was typed, or the default budget."""
        named = [f"{'' if x.name == 'budget' else x.name}{x.text}" for x in self.limits if _is_named(x)]
        boards = sorted({x.origin.removeprefix("board ") for x in self.limits if x.origin.startswith("board ")})
        parts = [*named, *boards, *([self.rule.name] if self.rule else [])]
        return re.sub(r"[^A-Za-z0-9.-]+", "", "-".join(parts)) or "unlimited"

    @property
    def identity(self) -> str:
        """Equal for equal limits, however they were typed."""
        numbers = sorted(f"{limit.name} {limit.number}" for limit in self.limits)
        # Without a limit on MACs or latency copies are not held against anything.
        copies = self.copies if any(limit.name in ("macs", "latency") for limit in self.limits) else 1
        board = [] if self.board is None else [f"latency on {self.board.key}"]
        return " ".join([*numbers, *board, f"rule {self.rule.name}" if self.rule else "", f"x{copies}"])

    def checks(self, costs: Costs, counted: Latency | None = None) -> list[Check]:
        """Every limit held against the costs of a student, predicted or written.

        Args:
            costs: of the student.
            counted: its latency with counted instructions; without it the latency follows from the table of the board's
                core.

        Raises:
            InputError: a limit on latency and a kernel that this table lacks.
        """
        values = {
            "budget": costs.parameter_bytes,
            "flash": costs.file_bytes,
            "ram": costs.ram_bytes,
            "macs": costs.macs_per_second(self.copies),
        }
        what = dict(WHAT)
        if self.board is not None:
            latency = counted or estimate_latency(costs.work, costs.precision, self.board)
            values["latency"] = latency.milliseconds(self.copies)
            of = "counted instructions" if latency.counted else "a table of kernel costs"
            what["latency"] += f" +-{latency.band:.0%} from {of}"
        found = [
            Check(x.name, what[x.name], x.number, values[x.name], values[x.name] <= x.number, x.origin)
            for x in self.limits
        ]
        if self.rule is not None:
            found += _rule_checks(self.rule, costs)
        return found

    def met(self, costs: Costs) -> bool:
        """Whether all of them hold."""
        return all(check.met for check in self.checks(costs))


def parse_limits(
    *,
    budget: str | None = None,
    flash: str | None = None,
    ram: str | None = None,
    macs: str | None = None,
    latency: str | None = None,
    board: str | None = None,
    rule: str | None = None,
    copies: int = 1,
    bits: str = "8",
) -> Limits:
    """Limits as they are typed. Of several on one thing the tightest is kept.

    The default budget stands in where nothing else limits the model's bytes (`flash`, `board`, `rule`), the default RAM
    where neither `ram` nor `board` does; "none" lifts either.

    Raises:
        InputError: a text that cannot be read, an unknown board or rule, or limits that contradict `bits`.
    """
    given: list[Limit] = []
    bounded = any(x is not None for x in (flash, board, rule))
    for name, text, default in (
        ("budget", budget, None if bounded else DEFAULT_BUDGET),
        ("flash", flash, None),
        ("ram", ram, None if board is not None else DEFAULT_RAM),
    ):
        if text is None and default is not None:
            given.append(Limit(name, default, parse_budget(default).bytes, DEFAULT_ORIGIN.format(name)))
        elif text is not None and text.strip().lower() != NONE:
            size = parse_budget(text, "budget" if name == "budget" else f"--{name}")
            given.append(Limit(name, size.text, size.bytes, f"--{name} {size.text}"))
    if macs is not None:
        times = f" --tta {copies}" if copies > 1 else ""
        given.append(Limit("macs", macs.strip(), parse_macs(macs), f"--macs {macs.strip()}{times}"))
    if board is not None:
        found = load_board(board)
        # The exported C's variables and the stack are linked into one piece; other pieces are left to the application.
        sizes = {"flash": found.flash_bytes, "ram": found.block_bytes}
        given += [Limit(name, found.key, number, f"board {found.key}") for name, number in sizes.items()]
    timed = None
    if latency is not None:
        milliseconds = parse_latency(latency)
        if board is None:
            raise InputError(f"--latency {latency.strip()}: on which board? Add --board NAME (see tinyasc boards)")
        timed = load_board(board)
        load_costs(timed)  # refused now where there is none
        origin = f"--latency {latency.strip()} --board {timed.key}{f' --tta {copies}' if copies > 1 else ''}"
        given.append(Limit("latency", latency.strip(), milliseconds, origin))
    if copies < 1:
        raise InputError(f"--tta {copies}: give the number of test-time copies, 1 or more")
    preset = None if rule is None else load_rule(rule)
    if preset is not None and preset.memory.precision == "int8" and bits == "16":
        raise InputError(f"--rule {preset.name} fixes int8, --bits 16 asks for int16x8; leave one of them out")
    tightest = {x.name: x for x in sorted(given, key=lambda x: -x.number)}
    return Limits(tuple(tightest[name] for name in WHAT if name in tightest), preset, copies, timed)


def parse_macs(text: str) -> int:
    """Reads "30M", "30000000", "30MMAC", "0.03G": multiply-accumulates per second of sound.

    Raises:
        InputError: no number, an unknown unit, less than 1 or not a whole number.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})\s*([kKMG]?)(?:MACs?)?\s*", text, flags=re.ASCII)
    if match is None:
        raise InputError(f"--macs {text!r} is no number of MACs per second; write it as 30M, 30MMAC or 30000000")
    number = Fraction(match[1]) * MAC_UNITS[match[2]]
    if not 1 <= number <= LARGEST_MACS or number.denominator != 1:
        raise InputError(f"--macs {text!r} is {float(number):.15g}; give a whole number from 1 to {LARGEST_MACS}")
    return int(number)


def parse_latency(text: str) -> int:
    """Reads "200ms", "0.2s", "1.5 s": milliseconds of one answer.

    Raises:
        InputError: no number, no unit, or no whole number of milliseconds from 1 to a day's.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})\s*(ms|s)\s*", text, flags=re.ASCII)
    if match is None:
        raise InputError(f"--latency {text!r} is no time with its unit; write it as 200ms or 0.2s")
    number = Fraction(match[1]) * TIME_UNITS[match[2]]
    if not 1 <= number <= LARGEST_MS or number.denominator != 1:
        raise InputError(
            f"--latency {text!r} is {float(number):.15g} ms; give a whole number of ms from 1 to {LARGEST_MS}"
        )
    return int(number)


def _is_named(limit: Limit) -> bool:
    return limit.origin.startswith("--") or (limit.name == "budget" and not limit.origin.startswith("board "))


def _rule_checks(rule: Rule, costs: Costs) -> list[Check]:
    verdict = judge(costs.graph, rule, costs.clip_seconds)
    origin = f"--rule {rule.name}"
    kept = rule.memory.precision is None or rule.memory.precision == costs.precision
    met = verdict.memory <= rule.memory.limit and kept
    what = rule.memory.counts.replace("nonzero_bytes", "bytes that are not zero")
    found = [Check("rule memory", what, rule.memory.limit, verdict.memory, met, origin)]
    if rule.macs_per_second is not None:
        value = costs.macs_per_second()
        found.append(
            Check("rule macs", WHAT["macs"], rule.macs_per_second, value, value <= rule.macs_per_second, origin)
        )
    return found
