"""The command `sweep`: runs what is not finished of a sweep file, here and wherever else the same command runs."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.files import atomic, read_json, write_json
from pas_train.errors import paragraph
from pas_train.results import FILE, MEASURES, read_results
from pas_train.sweeping import claims
from pas_train.sweeping.expansion import check_command
from pas_train.sweeping.folder import PlannedRun, SweepFolder, plan_runs, shown
from pas_train.sweeping.running import Interruptions, Outcome, duration, work
from pas_train.sweeping.sweep_file import find_sweep, read_sweep_file

MANY = 100  # runs of a dry run that are shown
POLL_S = 5.0
AGAIN_S = 60.0
TAKEN = "another run writes to"  # what a workspace says that somebody curates
# Whose accuracy is shown of a finished run, and which of its entries.
TOLD = dict.fromkeys(("knn", "linear", "linear_images", "finetune"), ("top1", "")) | {
    figure: next(iter(entries.items())) for figure, entries in MEASURES.items()
}
MOST = 4  # of these
# Exit statuses of a program that was told to end.
TOLD_TO_END = (130, 143, -2, -15, 138, -10)


def sweep(command: str, args: Sequence[str]) -> None:
    """The command `sweep`; ends with status 1 where a run failed, or was stopped before its end."""
    options = _parse(args)
    _refuse_ranks()
    file = read_sweep_file(find_sweep(options.file))
    check_command(file.command)
    folder = Path(options.out or f"runs/sweeps/{file.path.stem}")
    runs = plan_runs(file, folder, options.seed, options.count)
    if file.method == "random" and len(runs) < (options.count or file.run_cap or 0):
        print(f"{'sweep':<12}the parameters have {len(runs)} different points: so many runs")
    for remark in file.remarks:
        print(f"{'sweep':<12}{remark}")
    print(f"{'sweep':<12}{file.name}: {len(runs)} runs ({file.method}), in {folder}", flush=True)
    if options.dry_run:
        _show(runs)
        return
    state = SweepFolder(folder, file, runs, options.seed)
    others = state.begin()
    if others:
        print(paragraph(f"{'sweep':<12}{others} earlier runs of this folder are of other settings, and left out"))
    with Interruptions() as interruptions:
        _work_off(state, interruptions)
    sys.exit(_end(state, interruptions))


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="pas_train sweep", description=sys.modules[__name__].__doc__, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="W&B sweep file, or the name of a packaged one (quickstart)")
    parser.add_argument("--out", help="folder of the sweep; default runs/sweeps/NAME of the file")
    parser.add_argument("--count", type=_above_zero, help="runs at most, beside the file's run_cap")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of method random; default 0")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="show the commands, run none")
    return parser.parse_args(list(args))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(paragraph(f"pas_train: error: sweep: {message}; `python -m pas_train sweep --help`"), file=sys.stderr)
        sys.exit(2)


def _above_zero(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


def _refuse_ranks() -> None:
    """A sweep is one process; its programs may be many."""
    ranks = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if ranks > 1:
        raise ValueError(
            f"sweep was started {ranks} times over, by torchrun or srun: start it once, and let its file's command "
            "start the ranks, such as [torchrun, --nproc_per_node, '4', -m, pas_train, fit, ${args}] or [srun, ...]; "
            "more machines: the same command on each, with the same folder"
        )


def _show(runs: list[PlannedRun]) -> None:
    for run in runs[:MANY]:
        print(f"{run.number:>4}  {shlex.join(run.line)}")
    if len(runs) > MANY:
        print(f"      ... and {len(runs) - MANY} more")


def _work_off(state: SweepFolder, interruptions: Interruptions) -> None:
    """Runs all that nobody works at and that is not finished, each once; what finds its workspace taken comes again."""
    tried: set[str] = set()
    busy: dict[str, float] = {}  # name -> when to try again
    began = claims.now(state.folder)
    while interruptions.asked is None:
        later = {name for name, again in busy.items() if again > time.monotonic()}
        done = _next(state, tried | later, began)
        if done is None:
            if not busy and not _in_doubt(state):
                return
            time.sleep(POLL_S)
            continue
        run, claim = done
        busy.pop(run.name, None)
        if _run_one(state, run, claim, interruptions):
            busy[run.name] = time.monotonic() + AGAIN_S
        else:
            tried.add(run.name)


def _next(state: SweepFolder, tried: set[str], began: float) -> tuple[PlannedRun, claims.Claim] | None:
    """Claims the first run that is to be done; what failed elsewhere since this process `began` is not."""
    for run in state.runs:
        now, _ = state.state(run)
        if run.name in tried or now in ("finished", "running") or (now == "failed" and run.changed > began):
            continue
        claim = claims.claim(run.folder)
        if claim is None:
            continue
        if run.record.get("state") == "finished":  # in the meantime
            claim.release()
            continue
        return run, claim
    return None


def _in_doubt(state: SweepFolder) -> bool:
    """Whether a run's owner is ending, or has been silent for so long that it may be gone: worth a wait."""
    holders = [holding for run in state.runs if (holding := state.state(run)[1]) is not None]
    return any(one.ending or one.silent_s > claims.SILENT_S for one in holders)


def _run_one(state: SweepFolder, run: PlannedRun, claim: claims.Claim, interruptions: Interruptions) -> bool:
    """Runs one that is claimed, and writes down how it ended; True where it is to come again."""
    head = f"{f'run {run.number}/{len(state.runs)}':<12}"
    before = run.record
    again = {"failed": " (failed before)", "stopped": " (goes on)", "running": " (goes on)"}
    print(f"{head}{shown(run.point, state.varied)}{again.get(before.get('state', ''), '')}", flush=True)
    record = {
        "state": "running", "host": claims.hostname(), "attempts": before.get("attempts", 0) + 1,
        "seconds": before.get("seconds", 0.0), "exit": None, "run": before.get("run"), "results": None, "error": None,
    }  # fmt: skip
    run.write(record)
    state.write()
    outcome = work(run, claim, interruptions, head)
    if outcome.lost:
        print(f"{head}another machine has taken it over, as this one gave no sign of life; it goes on there")
        return False
    record |= {"seconds": round(record["seconds"] + outcome.seconds, 1), "exit": outcome.code}
    record["run"] = outcome.place or record["run"]
    if outcome.code == 0:
        record["state"] = "finished"
        if outcome.results is not None:
            record["results"] = str(_keep(outcome.results, run.folder).relative_to(state.folder))
    elif interruptions.asked is not None or outcome.code in TOLD_TO_END:
        record["state"] = "stopped"
    elif TAKEN in " ".join(outcome.error):
        record["state"] = "waiting"
    else:
        record |= {"state": "failed", "error": outcome.error}
    run.write(record)
    claim.release()
    state.write()
    _tell(head, run, record, outcome)
    return bool(record["state"] == "waiting")


def _keep(results: Path, folder: Path) -> Path:
    """Copies the results, with the settings beside them: the sweep's folder can be compared wherever it goes."""
    write_json(folder / FILE, read_json(results))
    settings = results.with_name("config.yaml")
    if settings.is_file():
        with atomic(folder / settings.name) as temporary:
            shutil.copyfile(settings, temporary)
    return folder / FILE


def _tell(head: str, run: PlannedRun, record: dict[str, Any], outcome: Outcome) -> None:
    """How a run ended."""
    took = duration(outcome.seconds)
    if record["state"] == "finished":
        figures = _figures(outcome.results)
        print(f"{head}finished in {took}{': ' if figures else ''}{figures}", flush=True)
    elif record["state"] == "waiting":
        print(f"{head}comes later: {' '.join(outcome.error).partition('error: ')[2]}"[:118], flush=True)
    elif record["state"] == "stopped":
        print(f"{head}stopped after {took}; the same command goes on with it", flush=True)
    else:
        how = f"signal {-outcome.code}" if outcome.code < 0 else f"exit status {outcome.code}"
        hint = "; the system may have run out of memory" if outcome.code == -9 else ""
        print(f"{head}failed after {took} ({how}{hint}); {run.log} ends:", flush=True)
        for line in outcome.error:
            print(f"{'':<12}{line}")
        sys.stdout.flush()


def _figures(results: Path | None) -> str:
    """The first accuracies of a results.json."""
    if results is None:
        return ""
    try:
        evaluation = read_results(results)["evaluation"]
    except ValueError:
        return ""
    told = [
        f"{name} {title or protocol} {100 * figures[key]:.1f} %"
        for name, backbones in evaluation.items()
        for protocol, figures in backbones.get("trained", {}).items()
        for key, title in [TOLD.get(protocol, ("", ""))]
        if figures.get(key) is not None
    ]
    return ", ".join(told[:MOST])


def _end(state: SweepFolder, interruptions: Interruptions) -> int:
    """Says how the sweep stands, and shows the comparison where nothing is left to do; the exit status."""
    entries = state.write()
    count = Counter(entry["state"] for entry in entries)
    told = ", ".join(f"{number} {name}" for name, number in count.items())
    took = duration(sum(entry["seconds"] or 0 for entry in entries))
    print(f"{'sweep':<12}{told}; {took} in all, {state.folder / 'runs.json'}", flush=True)
    failed = [entry for entry in entries if entry["state"] == "failed"]
    if failed:
        numbers = ", ".join(str(entry["number"]) for entry in failed)
        print(f"{'sweep':<12}the same command runs again what failed: {numbers}")
    stopped = [entry for entry in entries if entry["state"] == "stopped"]
    if stopped and interruptions.asked is None:  # somebody told these programs alone to end
        numbers = ", ".join(str(entry["number"]) for entry in stopped)
        print(f"{'sweep':<12}the same command goes on with what was stopped: {numbers}")
    if interruptions.asked is not None:
        return 128 + interruptions.asked
    if count["running"]:
        hosts = sorted({entry["host"] for entry in entries if entry["state"] == "running"})
        print(f"{'sweep':<12}{count['running']} still at work on {', '.join(hosts)}; the last one compares")
    elif any(entry["results"] for entry in entries):
        _compare(state)
    return 1 if failed or stopped else 0


def _compare(state: SweepFolder) -> None:
    """Runs `compare` over the sweep, and says how to do so again."""
    line = ["-m", "pas_train", "compare", str(state.folder), "--out", str(state.folder / "comparison")]
    print(f"{'compare':<12}{shlex.join(['python', *line])}\n", flush=True)
    subprocess.run([sys.executable, *line], check=False)
