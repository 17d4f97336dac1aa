"""A run's own ClientApp, run here: the built-in one, with the code of a task of one's own from the record.

That code is executed in this process. Its digest is the one that members agreed on; whether to trust it is
for whoever audits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr.app import RecordDict

from barnraise.client.app import client_app
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.fleet import Order
from barnraise.protocols import flower
from barnraise.protocols.apps import app_digest, code_kept
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.flower import Handled
from barnraise.protocols.identity import Member


class Handlers:
    """Runs orders as a member would. Raises U110 unless the code is the run's."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        home = audit.source.code(audit.run.run)
        wanted = audit.run.opened["app"]["digest"]
        if home is None or (found := app_digest(code_kept(home))) != wanted:
            why = "it is not here" if home is None else f"{home} has the digest {found}"
            raise elsewhere(
                "the app's code is not that of the run", f"{why}; the run's is {wanted}"
            )
        self._app = client_app(home)

    def run(
        self,
        order: Order,
        records: RecordDict,
        carry: RecordDict,
        seed: bytes,
        config: Mapping[str, str | int],
    ) -> Handled:
        """One order: what the handler leaves. The generators outside go on as if it had not run."""
        run_id = int(self._audit.run.run, 16)
        assert self._audit.work is not None
        context = flower.new_context(
            run_id, order.member.node_id, dict(config), RecordDict(), dict(self._audit.work.config)
        )
        message = flower.instruction(order.header(run_id), records)
        with flower.generators_kept(), flower.one_copy_arrays():
            return flower.run_handler(self._app, message, context, carry, seed)


def data_of(member: Member, data: Path) -> Path:
    """The member's directory: `data` itself, or the one of its name in it."""
    return inner if (inner := data / member.name).is_dir() else data


def elsewhere(what: str, why: str) -> BarnraiseError:
    """U110."""
    return BarnraiseError(
        "U110", what, why, next="audit a release, or the directory of the run, that has it"
    )
