"""The errors of Barnraise.

    BarnraiseError            everything a person is told: code, what, evidence, what changed, one next step

Every code stands once in `CODES` with its meaning, and once in `docs/errors.md`; a test holds the two
together. Codes are stable: scripts may match on them.
"""

from __future__ import annotations

from dataclasses import dataclass

CODES: dict[str, str] = {
    # A: the app
    "A101": "the app directory is missing or names no components",
    "A102": "the app's configuration is malformed",
    "A103": "the app could not be imported",
    "A104": "the app uses an API that this engine does not carry",
    "A201": "the ServerApp raised",
    "A202": "the ServerApp waits for more members than there are",
    "A203": "the ServerApp called the Grid from two places at once",
    "A204": "every member failed",
    # C: the charter
    "C101": "the charter is missing",
    "C102": "the charter is not valid TOML",
    "C103": "the charter has an unknown key",
    "C104": "the charter has a wrong value",
    "C105": "the charter's task cannot be used",
    "C106": "the charter's initial model cannot be used",
    # D: directories, disk and data
    "D101": "the directory belongs to another run",
    "D102": "the directory is in use",
    "D103": "the directory holds no run",
    "D104": "the disk is full",
    "D105": "the directory cannot be read or written",
    "D106": "the stored record is damaged",
    "D108": "another process has written to the journal",
    "D201": "the data directory is missing or empty",
    "D202": "the data cannot be read",
    # R: the run
    "R101": "the app diverged from its journal",
    "R102": "the replay ended in another model",
    "R103": "the run is not finished",
    "R104": "too few members for the rule",
    # K: deployments
    "K111": "the Flower app is not set up",
    "K112": "Flower's grid does not answer",
    "K113": "the run's nodes are not connected",
    "K114": "a process of the worker's group ended or did not answer",
    # L: the log
    "L101": "the directory holds no log",
    "L102": "the log has no such entry",
    "L103": "the log does not hold together",
    "L104": "the proof does not hold",
    "L105": "the log cannot be signed here",
    # U: the audit
    "U101": "the directory holds nothing to audit",
    "U102": "a round does not follow from its contributions",
    "U103": "a content that the log names is missing or damaged",
    "U104": "there is no such run or round",
    "U105": "the log to audit does not hold together",
    "U106": "the contributions cannot be decrypted",
    "U107": "the age identity cannot be read",
    "U108": "the retrained contribution is not the one on record",
    "U109": "the seed or secret is not the one of the run",
    "U110": "the round cannot be trained or evaluated again here",
    "U111": "there is no such counterfactual",
    # M: why a member's reply was not taken
    "M101": "the reply is malformed",
    "M102": "the reply is too large",
    "M103": "the reply's signature is not the member's",
    "M104": "the reply's arrays have other names than the order's",
    "M105": "the reply's arrays have other shapes or dtypes than the order's",
    "M106": "the reply's arrays are not finite",
    "M107": "the reply's weight is not an integer in [1, 2^31)",
    "M108": "the member's handler failed",
    "M109": "the reply's records or metrics differ from most of the batch's",
    "M110": "the reply came after its batch was closed",
    "M111": "the destination is not on the roster",
    "M112": "the member was revoked before the batch closed",
    # N1: enrolment and keys
    "N101": "the invite is damaged",
    "N102": "the invite is not accepted",
    "N103": "the invite has expired",
    "N104": "the invite was used by other keys",
    "N105": "the member is revoked",
    "N106": "the request is not signed by the member's identity key",
    "N107": "the request for a certificate is malformed",
    "N108": "the name or the keys are taken",
    "N109": "no such member is enrolled",
    "N110": "the coordinator cannot be reached",
    "N111": "the coordinator is not the federation's",
    "N112": "a certificate is not valid at this clock's time",
    "N113": "the coordinator's answer does not fit the invite",
    "N114": "the node belongs to another federation",
    "N115": "the node's keys cannot be read",
    "N116": "the node is not enrolled",
    "N117": "the name cannot be a member's or a federation's",
    "N118": "the address cannot be listened on",
    "N119": "the coordinator failed to answer",
    "N120": "the operator has not confirmed the node's fingerprint",
    "N121": "no certificate can be issued now",
    # F: founding, agreements, runs
    "F101": "the directory holds no federation",
    "F102": "the authority's key is not here",
    "F103": "the address is malformed",
    "F104": "the federation is founded already",
    "F105": "the federation is not being served",
    "F106": "the federation's description is damaged",
    "F110": "too few members have signed the agreement",
    "F111": "a run is open already",
    "F112": "no run is open",
    "F113": "there is no such run",
    "F114": "the federation has too few members",
    "F115": "the operator aborted the run",
    "F116": "the fingerprints differ",
    "F117": "the statement is not accepted",
    # S: what a site states of its data
    "S101": "nothing says how the site's data are read",
    "S102": "the answers about the data cannot be read",
    "S103": "the answers about the data are not filled in",
    "S104": "the answers make no data statement",
    "S105": "an answer quotes the private data",
    "S106": "a file of open data has no address",
    "S107": "the processing code cannot be used",
    "S108": "the record cannot be opened",
    "S109": "the data are not those that were stated",
    "S110": "the opening does not hold",
    "S111": "the site has stated nothing of its data",
    # G1: a release
    "G101": "there is no finished run to release",
    "G102": "the run names no model",
    "G103": "the run's contributions are not all here",
    "G104": "too few members have cosigned the release",
    "G105": "an auditor's key cannot be used",
    "G106": "nobody signs in the run",
    # P: what a site approved, and what its policy allows
    "P101": "the policy cannot be read",
    "P102": "nothing of that name was proposed to this site",
    "P103": "what lies here is not what was proposed",
    "P104": "this site cannot sign the agreement",
    "P105": "the site has not approved what is to run",
    # N3: the node itself
    "N301": "the node's directory is in use",
    "N302": "the node's directory is incomplete",
    "N303": "the code is not what this site approved",
    "N304": "the coordinator asked for what this site did not approve",
    "N305": "a receipt is not the federation's",
    "N306": "the worker died twice over an order",
    "N307": "a reply cannot be delivered",
    "N308": "a node does not start",
    "N320": "what leaves cannot be put on record",
    "N321": "the record of what left cannot be read",
    "N322": "the code may not run as this site demands it",
    "N323": "the site's policy forbids a reply to leave",
    "N310": "the coordinator has forked the log",
    "N311": "the coordinator's log went back",
    "N312": "what the coordinator shows of the log is not proved",
    "N313": "the run is not the one that the members agreed on",
    "N314": "an order is not what the log has",
    "N315": "a receipt is not what the log has",
    # N2: sessions and transfers, as nodes are told
    "N201": "the caller is no member, or was revoked",
    "N202": "the member is not admitted to this run",
    "N203": "the node does not keep to the protocol",
    "N204": "the reply is to no order of this member",
    "N205": "the offer of a reply is malformed",
    "N206": "the reply is larger than the run allows",
    "N207": "a piece of a reply is out of place",
    "N208": "what arrived has another digest",
    "N209": "the content is not this member's to fetch",
    "N210": "a newer call of the same member took over",
    "N211": "the coordinator cannot do this now",
    # G12: how a release is signed
    "G121": "the key that signs releases cannot be read",
    "G122": "what signs releases is not installed",
    "G123": "the release cannot be signed",
    # H: what `doctor` finds
    "H101": "the host's name cannot be resolved",
    "H102": "the port is closed or cannot be reached",
    "H103": "who answers has another authority's certificate",
    "H104": "the coordinator's certificate is not valid now",
    "H105": "the node's certificate is not valid now, or ends soon",
    "H106": "the clocks are apart",
    "H107": "there is little room on the disk",
    "H108": "the directory is not as it should be",
    "H109": "the approved code is not what is at hand",
    "H110": "what answers speaks no TLS",
    "H111": "the federation does not answer, or does not admit this node",
    "H112": "there is a GPU that torch cannot use",
    "H113": "the node has not joined",
    # K: keeping it running
    "K101": "the place cannot take a backup",
    # V: what a release's verification finds
    "V101": "the directory cannot be read as a release",
    "V102": "the trust policy cannot be read",
    "V103": "the release's manifest is malformed",
    "V104": "the release has other files than it must have",
    "V105": "a file of the release is not what the manifest says",
    "V106": "the release is not what the trust policy pins",
    "V107": "the checkpoint is not signed by the log",
    "V108": "the tiles of the log do not give its checkpoint",
    "V109": "the release's log breaks its rules",
    "V110": "the log's blobs are not what its entries name",
    "V111": "the checkpoint is not witnessed by the members",
    "V112": "the log does not name the release",
    "V113": "the agreement or the members are not those of the log",
    "V114": "the code is not what the run was opened with",
    "V115": "the weights are not what the run ended with",
    "V116": "the metrics do not follow from the log",
    "V117": "the contributions are not those of the run",
    "V118": "the data statements are not those of the log",
    "V119": "the release's own signature does not hold",
    # X: ours
    "X101": "Barnraise itself failed",
    "X102": "the command was used wrongly",
    "X103": "interrupted",
    "X104": "the output cannot be written",
}


@dataclass
class BarnraiseError(Exception):
    """What went wrong, said to a person.

    `code` is a key of `CODES`; `what` one sentence; `evidence` the facts seen; `changed` what was
    changed or sent before it stopped (or that nothing was); `next` one command or one act.
    """

    code: str
    what: str
    evidence: str = ""
    changed: str = "nothing was changed"
    next: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, f"unregistered error code {self.code}"
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [f"error[{self.code}] {self.what}"]
        lines += [f"  {line}" for line in self.evidence.splitlines()]
        if self.changed:
            lines.append(f"  {self.changed}")
        if self.next:
            lines.append(f"next: {self.next}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str]:
        """The same for `--json`: `{"error", "meaning", "what", "evidence", "changed", "next"}`."""
        return {
            "error": self.code,
            "meaning": CODES[self.code],
            "what": self.what,
            "evidence": self.evidence,
            "changed": self.changed,
            "next": self.next,
        }
