"""The part of an analysis on the prototypes of a trained ProtoSim."""

from datamodules.files import read_json
from datamodules.image_source import JoinedSources
from pas_train.analysis.page import Picture, Section, Table
from pas_train.analysis.study import Study


def add_prototypes(study: Study) -> None:
    """The prototypes that the sets share, by a trained ProtoSim."""
    if study.options.protosim is None:
        return
    if len(study.sets) < 2:
        raise ValueError("--protosim compares two sets or more")
    from pas_train.protosim.comparing import compare, load_protosim

    module = load_protosim(study.options.protosim).to(study.device)
    names, folder = [one.name for one in study.sets], study.out / "protosim"
    compare(
        module, JoinedSources([one.images for one in study.sets]), names, folder, study.options.workers, study.device
    )
    study.result["protosim"] = found = read_json(folder / "protosim.json")
    exclusive, chance = found["all_tokens"]["exclusive"], found["random_split"]["exclusive"]
    rows = [[name, one["prototypes"], one["images"], chance[name]["mean"]] for name, one in exclusive.items()]
    shared = f"{found['all_tokens']['shared']:,} of {found['prototypes']:,}"
    note = f"{shared} prototypes are shared; more in protosim/index.html."
    heads = ["Set", "Own prototypes", "Images behind them", "Own by chance"]
    pictures = [
        Picture(folder / f"exclusive-{place + 1}.png", f"Images of the prototypes of {name} alone", f"Only in {name}")
        for place, name in enumerate(names)
        if (folder / f"exclusive-{place + 1}.png").is_file()
    ]
    study.sections.append(Section("Prototypes", note, [Table(heads, rows), *pictures]))
