"""One study in an Optuna storage, and what is kept with it as a whole."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from thalweg.lab.running.absence import Patient, forgiving_absence, patiently, talking_to
from thalweg.lab.running.connecting import address, connect, quietly


class KeptStudy(Patient):
    """One study in a storage; it is made there if it does not exist.

    Args:
        storage: see `thalweg.lab.running.connecting.address`.
        name: of the study; whoever gives the same name works on the same study.
        higher_is_better: the direction in which Optuna's own tools show it.
        fresh: whether to delete what there is of that name first.
        former: the name that the study had in earlier versions; one that still has it goes on under it.

    Attributes:
        name: under which it is kept.

    Raises:
        StoreError: the storage cannot be reached.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        *,
        higher_is_better: bool,
        fresh: bool = False,
        former: str | None = None,
    ) -> None:
        super().__init__(storage)
        with talking_to(storage), quietly():
            self._connection = connect(address(storage))
            self._storage: BaseStorage = get_storage(self._connection)
            for old in filter(None, (name, former) if fresh else ()):
                with suppress(KeyError):
                    optuna.delete_study(study_name=old, storage=self._storage)
            names = {study.study_name for study in self._storage.get_all_studies()} if former else set()
            if former in names and name not in names:
                name = str(former)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                load_if_exists=True,
            )
        self.name = name
        self._id = self._storage.get_study_id_from_name(name)

    @patiently
    def agreed(self) -> dict[str, Any] | None:
        """What `agree` was given by whoever began the study; None if nobody did."""
        with talking_to(self._storage_name):
            said = [entry.user_attrs["agreed"] for entry in self._entries() if "agreed" in entry.user_attrs]
        return said[0] if said else None

    @patiently
    def agree(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps `facts` with the study for all who join it; returns those that count."""
        # The storage numbers the entries one by one, so that of several who begin at once all see the same
        # first word. It is entered as a trial without a key, for an attribute's last word would count.
        word = create_trial(state=TrialState.FAIL, user_attrs={"agreed": dict(facts)})
        with talking_to(self._storage_name):
            self._storage.create_new_trial(self._id, word)
        return self.agreed() or dict(facts)

    @patiently
    def noted(self) -> dict[str, Any]:
        """What `note` was given for this study."""
        with talking_to(self._storage_name):
            return dict(self._storage.get_study_user_attrs(self._id).get("notes", {}))

    @patiently
    def note(self, notes: Mapping[str, Any]) -> None:
        """Keeps with the study what tells it from others; all who work on it note the same."""
        with talking_to(self._storage_name):
            self._storage.set_study_user_attr(self._id, "notes", dict(notes))

    @patiently
    def others(self) -> list[dict[str, Any]]:
        """The notes of the other studies in the storage, those that were begun last first."""
        with talking_to(self._storage_name):
            studies = [study for study in self._storage.get_all_studies() if study._study_id != self._id]
        studies.sort(key=lambda study: -study._study_id)
        return [study.user_attrs["notes"] for study in studies if "notes" in study.user_attrs]

    def close(self) -> None:
        """Ends the connection, whether or not there is still somebody at its other end."""
        with forgiving_absence(), talking_to(self._storage_name):
            self._storage.remove_session()
            self._connection.engine.dispose()

    def _entries(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)
