"""The node's process from start to end: one lock, one membership, one approval, then `Node.run`.

Everything that is wrong with the directory is said here, before anything is connected or started.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc

from barnraise.client import enrol
from barnraise.client.channel import open_channel
from barnraise.client.keys import Membership, NodeKeys, not_enrolled
from barnraise.client.node import leaving, misconduct, sandbox
from barnraise.client.node.approval import FILE, Approval
from barnraise.client.node.backoff import delay
from barnraise.client.node.gate import Errand, Gate
from barnraise.client.node.life import Life
from barnraise.client.node.link import OPTIONS
from barnraise.client.node.logs import node_log
from barnraise.client.node.mailbox import Mailbox
from barnraise.client.node.node import Node, Site, Stop
from barnraise.client.node.policy_file import FILE as POLICY
from barnraise.client.node.sent import FILE as SENT
from barnraise.client.node.sent import Sent
from barnraise.client.node.witness import Witness
from barnraise.protocols import allocator, files, pki, statements
from barnraise.protocols.apps import code_kept
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import Member
from barnraise.protocols.invite import Invite

INVITE = "invite.txt"
KEPT_FREE = 64 << 20  # bytes of memory that are not given back after a transfer
RENEWAL_EVERY = 60.0  # seconds between two looks at the certificate


def main(node_dir: Path, parent: int | None = None, *, loud: bool = False) -> int:
    """Run the node as `run` does; its exit status."""
    return 0 if run(node_dir, parent, loud=loud) is None else 1


def run(
    node_dir: Path,
    parent: int | None = None,
    *,
    loud: bool = False,
    form: logging.Formatter | None = None,
) -> BarnraiseError | None:
    """Run the node in this process until it is told to end; what it ended by, if something went wrong.

    `parent` is the process without which it is not to live. What goes wrong is told in `logs/node.log`
    and on standard error, there in this `form`, and with `loud` whatever else happens too. SIGTERM and
    SIGINT end it well.
    """
    if parent is not None:
        sandbox.end_with_parent(signal.SIGKILL, parent)
    sandbox.keep_memory_private()
    allocator.settle(KEPT_FREE)
    gc.freeze()  # what was imported is no garbage
    home = node_dir.absolute()
    mail = Mailbox()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: mail.urge(Stop()))
    log = logging.getLogger("barnraise.node")
    try:
        with files.disk_errors(home), locked(home):
            log = node_log(home / "logs", loud=loud, form=form)
            _run(home, mail, log)
            return None
    except BarnraiseError as error:
        log.error("%s", error)
        return error
    except Exception as error:
        log.exception("X101: the node itself failed")
        return BarnraiseError(
            "X101",
            "the node itself failed",
            type(error).__name__,
            "what was begun is kept",
            f"read the end of {home / 'logs' / 'node.log'}, and report it",
        )


def _run(home: Path, mail: Mailbox, log: logging.Logger) -> int:
    """For the one run that `approved.json` names, or, without it, for a federation's runs."""
    misconduct.check(home)
    if not (home / FILE).exists():
        return _live(home, log)
    approval = Approval.read(home)
    approval.check_code()
    if not _join(home, mail, log):
        return 0
    site = _site(home, approval, log)
    log.info("%s: node of run %s starts", site.member, approval.run)
    sent = Sent(home / SENT, durable=(home / POLICY).exists())
    try:
        with _renewing(home, log):
            gate = Gate(home, sent, Errand(approval.run, approval.app), code_kept(approval.code))
            return Node(home, approval, site, mail, log, gate).run()
    finally:
        sent.close()


def _live(home: Path, log: logging.Logger) -> int:
    """Raises N115, N116."""
    if leaving.left(home) is not None:
        raise BarnraiseError(
            "N116",
            f"the node in {home} has left its federation",
            "its leaving is on record at the coordinator",
            next="join with a new invite, in another directory",
        )

    def site() -> Site:
        """Anew for each of its phases: a witness lives as long as the one who asks it."""
        return _membership(home, log)[0]

    keys, membership = NodeKeys.open(home), Membership.read(home)
    if membership is None:
        raise not_enrolled(home)
    log.info("%s: node of the federation %s starts", membership.member, membership.federation)
    with _renewing(home, log):
        return Life(home, membership, site, keys.public_key, log).run()


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the directory's lock; N301 if another process does, N302 if there is no such directory."""
    try:
        fd = os.open(home / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise BarnraiseError(
            "N302",
            f"{home} is no node's directory",
            "there is no such directory",
            next="give the directory of a node",
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BarnraiseError(
            "N301",
            f"a node is running in {home}",
            f"another process holds {home / 'lock'}",
            next="end that process, or give another directory",
        ) from None
    finally:
        os.close(fd)


# --- membership -----------------------------------------------------------------------------------


def _join(home: Path, mail: Mailbox, log: logging.Logger) -> bool:
    """Enrol with the invite that lies here, if one does; False if the node is told to end meanwhile.

    A coordinator that cannot be reached yet is waited for.
    """
    path = home / INVITE
    if not path.is_file():
        return True
    invite = Invite.parse(path.read_text())
    failures = 0
    while True:
        try:
            enrol.join(home, invite)
            return True
        except BarnraiseError as error:
            if error.code != "N110":
                raise
            failures += 1
            if failures == 1:
                log.warning("waiting for the coordinator: %s (%s)", error.what, error.evidence)
        if mail.take(delay(failures, random.random())) is not None:
            return False


def _site(home: Path, approval: Approval, log: logging.Logger) -> Site:
    """The member's keys, for the run that was approved. Raises N115, N116, N302."""
    site, _, membership = _membership(home, log)
    if membership.federation != approval.federation:
        raise BarnraiseError(
            "N302",
            f"{home / FILE} is of another federation than the node",
            f"it approves a run of {approval.federation!r}; the node is in {membership.federation!r}",
            "the node was not started",
            next="approve the run again in the directory of that federation's node",
        )
    return site


def _membership(home: Path, log: logging.Logger) -> tuple[Site, NodeKeys, Membership]:
    """Who this node is. Raises N115, N116."""
    membership = Membership.read(home)
    if membership is None:
        raise not_enrolled(home)
    keys = NodeKeys.open(home)
    keys.channel_credentials()
    member = Member(membership.member, keys.public_key)
    site = Site(
        member.name,
        member.node_id,
        keys.secret,
        membership.log_public_key(),
        partial(statements.sign, keys.identity, member.name, "reply"),
        partial(_connect, home, keys),
        Witness(home, member.name, keys.identity, membership.log_key, log),
    )
    return site, keys, membership


def _connect(home: Path, keys: NodeKeys) -> grpc.Channel:
    """A channel with the certificate and to the address of this moment."""
    membership = Membership.read(home)
    if membership is None:
        raise not_enrolled(home)
    return open_channel(membership.session, keys.channel_credentials(), OPTIONS)


@contextmanager
def _renewing(home: Path, log: logging.Logger) -> Iterator[None]:
    """Inside, the certificate is renewed when two thirds of its life are over."""
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(home, log, ended), name="renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _renew(home: Path, log: logging.Logger, ended: threading.Event) -> None:
    said, due = "", 0.0
    while True:
        try:
            due = due or enrol.renew_at(home)
            if time.time() >= due:
                enrol.renew(home)
                log.info("the certificate was renewed")
                due = 0.0
            said = ""
        except (BarnraiseError, pki.PkiError) as error:
            if str(error) != said:
                log.warning("the certificate could not be renewed: %s", error)
            said = str(error)
        if ended.wait(RENEWAL_EVERY):
            return
