"""ProtoSim: which prototypes two data sets share, and which only one of them has (van Noord 2023)."""

from pas_train.protosim.module import ProtoSim

__all__ = ["ProtoSim"]
