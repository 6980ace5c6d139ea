"""The images behind addresses, fetched with img2dataset."""

import os
import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from curation.fetching.downloader import INSTALL, Limits, arguments, check_command, run_round
from curation.fetching.rounds import KEY, Round, begin_round, check_settings, read_addresses, read_rounds
from curation.searching.metadata import Columns
from curation.stage import Context, Stage, runtime
from curation.stages.ingest import listing
from datamodules.files import atomic, fingerprint

RESIZE_MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
OPT_OUTS = "noai", "noimageai", "noindex", "noimageindex"
# What img2dataset says where no server answered.
UNREACHED = re.compile(
    r"\[Errno|timed out|Connection (refused|reset|aborted)|Name or service|Temporary failure in name"
)
LEAST_OUTAGE = 16  # addresses
FORBIDDEN = "reason:Use of image disallowed by X-Robots-Tag directive"


@dataclass(frozen=True)
class Fetch(Stage):
    """Fetches what the search found, or a table of addresses, with img2dataset; every failure stays a row.

    An address is tried once: a later run fetches the addresses that are new.

    Args:
        table: Parquet file (or a folder of them) of addresses; null takes those of the search.
        columns: Names of the columns of `table`.
        command: The img2dataset of an environment of its own; null stops with the command for another machine.
        image_size: Side in pixels that larger images are reduced to.
        resize_mode: img2dataset's: no, border, keep_ratio, keep_ratio_largest (longer side) or center_crop.
        respect_opt_out: Leaves out images whose server says noai, noimageai, noindex or noimageindex.
        user_agent_token: What the downloader calls itself to servers.
        allow_private: Whether addresses of private networks may be fetched.
        max_bytes: Of one image's file; larger ones are failures.
        samples_per_shard: Addresses per shard, the unit of resumption.
        timeout_s: Longest silence of a server.
        longest_s: Longest time for one image.
        retries: Further tries of a failed address.
        processes: Processes, each for a shard at a time; the cores when null.
        threads: Connections of each process.
    """

    name: ClassVar[str] = "fetch"
    reads: ClassVar[tuple[str, ...]] = ("search",)
    keeps: ClassVar[tuple[str, ...]] = ("urls-*", "round-*")
    table: str | None = None
    columns: Columns = field(default_factory=Columns)
    command: str | None = runtime("img2dataset")
    image_size: int = 512
    resize_mode: str = "keep_ratio_largest"
    respect_opt_out: bool = True
    user_agent_token: str = "pas-train"
    allow_private: bool = False
    max_bytes: int = 32 * 1024**2
    samples_per_shard: int = 10_000
    timeout_s: int = runtime(10)
    longest_s: float = runtime(60.0)
    retries: int = runtime(1)
    processes: int | None = runtime(None)
    threads: int = runtime(64)

    def identity(self, context: Context) -> dict[str, Any]:
        """Names, sizes and times of the table's files."""
        path = Path(self.table) if self.table is not None else None
        return {"table": listing(path)} if path is not None and path.exists() else {}

    def check(self, context: Context) -> None:
        """There must be addresses, and the downloader; images fetched before must be of these settings."""
        searched = "search" in context.stages
        if searched == (self.table is not None):
            raise ValueError(
                f"{KEY}.table is {self.table!r} {'beside' if searched else 'without'} a curation.search; "
                "give one of both: a table of addresses, or a search that finds them"
            )
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"{KEY}.resize_mode is {self.resize_mode!r}; it is one of {', '.join(RESIZE_MODES)}")
        for name in ("image_size", "max_bytes", "samples_per_shard", "timeout_s", "longest_s", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{KEY}.{name} must be positive, got {getattr(self, name)}")
        if not re.fullmatch(r"[A-Za-z][\w.-]*", self.user_agent_token):
            raise ValueError(
                f"{KEY}.user_agent_token is {self.user_agent_token!r}; say who fetches, in one word of letters, "
                "digits, dots and dashes"
            )
        folder = context.workspace.stage_folder(self.name).resolve()
        if set("[]*?") & set(str(folder)):  # img2dataset would take them for patterns and find none of its shards
            raise ValueError(f"workspace: img2dataset cannot go on in {folder}; choose a name without [, ], * and ?")
        if self.table is not None:
            read_addresses(Path(self.table), self.columns)
        check_settings(read_rounds(context.workspace.stage_folder(self.name)), self._deciding())
        if self.command is not None:
            check_command(self.command)

    def intact(self, context: Context) -> bool:
        """Whether every round still has its shards: who deletes a round's folder wants it fetched again."""
        rounds = read_rounds(context.workspace.stage_folder(self.name))
        return bool(rounds) and not any(round_.missing() for round_ in rounds)

    def run(self, context: Context) -> dict[str, Any]:
        """Writes urls-NNN.parquet and round-NNN/ (NNNNN.tar, NNNNN.parquet) for the addresses that are new."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        folder = context.workspace.stage_folder(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        found = context.workspace.stage_folder("search") / "found.parquet"
        source = Path(self.table) if self.table is not None else found
        addresses, dropped = read_addresses(source, self.columns if self.table is not None else Columns())
        if not addresses.num_rows:
            raise ValueError(f"{KEY}: {source} has no http or https address")
        begin_round(folder, addresses, self._deciding())
        rounds = read_rounds(folder)
        for round_ in rounds:
            if missing := round_.missing():
                context.say(f"{self.name:<10} {len(missing)} shards of {round_.count} addresses into {round_.folder}")
                self._fetch(round_, context.session.is_zero)
                _refuse_outage(round_, rounds)
        total = sum((round_.statistics() for round_ in rounds), Counter[str]())
        # Shards that were fetched anew, by the same settings, hold other bytes at other places.
        output = fingerprint([listing(round_.folder) for round_ in rounds])
        return {**self._tell(total, addresses.num_rows, dropped, folder), "output": output}

    def _fetch(self, round_: Round, show: bool) -> None:
        options = self._options(round_)
        if self.command is None:
            script = round_.folder.with_name(f"fetch-{round_.folder.name.removeprefix('round-')}.sh")
            with atomic(script) as temporary:
                temporary.write_text(shlex.join(["img2dataset", *arguments(round_, options)]) + "\n")
            raise RuntimeError(
                f"{KEY}.command is null, so the {round_.count} addresses in {round_.urls} wait to be fetched "
                f"elsewhere: {script} holds the command for it ({INSTALL}). Put its output folder at "
                f"{round_.folder.resolve()}, then run again"
            )
        check_command(self.command)
        run_round(self.command, round_, options, Limits(self.allow_private, self.max_bytes, self.longest_s), show)

    def _deciding(self) -> dict[str, Any]:
        """What decides how an image looks and which are fetched."""
        names = ("image_size", "resize_mode", "respect_opt_out", "samples_per_shard")
        return {name: getattr(self, name) for name in names}

    def _options(self, round_: Round) -> dict[str, object]:
        """img2dataset's options; the size of the shards is the round's own."""
        directives = ",".join(f'"{word}"' for word in OPT_OUTS) if self.respect_opt_out else ""
        return {
            "image_size": self.image_size, "resize_mode": self.resize_mode, "resize_only_if_bigger": True,
            "number_sample_per_shard": round_.settings["samples_per_shard"], "timeout": self.timeout_s,
            "retries": self.retries, "processes_count": self.processes or os.cpu_count() or 1,
            "thread_count": self.threads, "user_agent_token": self.user_agent_token,
            "disallowed_header_directives": f"[{directives}]",
        }  # fmt: skip

    def _tell(self, total: Counter[str], wanted: int, dropped: int, folder: Path) -> dict[str, Any]:
        reasons = {name.removeprefix("reason:"): count for name, count in total.items() if name.startswith("reason:")}
        reasons.pop("success", None)
        common = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:20])
        if not total["successes"]:
            said = ", ".join(f"{count} {text}" for text, count in list(common.items())[:3])
            raise RuntimeError(
                f"{KEY}: none of {total['count']} addresses could be fetched ({said}); see to the network, then delete "
                f"{folder} and run again"
            )
        notes = [f"{total['successes']} of {total['count']} addresses fetched"]
        notes += [f"{total[FORBIDDEN]} opted out"] * bool(total[FORBIDDEN])
        notes += [f"{dropped} rows have no address of the web"] * bool(dropped)
        return {"rows": total["count"], "summary": "; ".join(notes), "wanted": wanted, "reasons": common}


def _refuse_outage(round_: Round, rounds: list[Round]) -> None:
    """Takes back a round that reached no server at all: a network that is down says nothing of its addresses.

    After a round that reached some, a few dead hosts are no outage.
    """
    total = round_.statistics()
    if total["count"] < LEAST_OUTAGE and any(other.statistics()["successes"] for other in rounds):
        return
    reasons = [name.removeprefix("reason:") for name in total if name.startswith("reason:")]
    if total["successes"] or not reasons or not all(UNREACHED.search(reason) for reason in reasons):
        return
    round_.remove()
    raise RuntimeError(
        f"{KEY}: none of {total['count']} addresses could be reached ({reasons[0]}), so the network or a proxy is at "
        "fault; mend it and run again: they are fetched anew"
    )
