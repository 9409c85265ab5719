"""Messages, entries and saves of the consensus in words, as the scripts tell them.

`5@2` is the entry at index 5 of term 2. Numbers that are what everybody expects (round 0, no repair) are
left out, so that a line shows what is particular about it.
"""

from __future__ import annotations

from support.raft_disk import Save

from gemot.server.raft.types import (
    Append,
    AppendReply,
    Batch,
    CampaignNow,
    Entry,
    EntryKind,
    Message,
    ReadAsk,
    ReadReply,
    SnapshotOffer,
    SnapshotReply,
    VoteAsk,
    VoteReply,
)
from gemot.server.raft.voters import decode_voters


def voters_words(voters: tuple[str, ...]) -> str:
    return "".join(voters) or "nobody"


def entry_words(entry: Entry) -> str:
    place = f"{entry.index}@{entry.term}"
    if entry.kind == EntryKind.NOOP:
        return f"{place}(noop)"
    if entry.kind == EntryKind.VOTERS:
        return f"{place}(voters {voters_words(decode_voters(entry))})"
    return f"{place}({data_words(entry.data)})"


def data_words(data: bytes) -> str:
    """As it was proposed: `x*20000` is twenty thousand times x."""
    text = data.decode()
    return f"{text[0]}*{len(text)}" if len(text) > 99 and len(set(text)) == 1 else text


def data_from(words: str) -> bytes:
    text, _, times = words.partition("*")
    return (text * int(times or 1)).encode()


def save_words(save: Save) -> str:
    parts: list[str] = []
    if save.hard_state is not None:
        parts.append(f"term {save.hard_state.term} vote {save.hard_state.vote or 'nobody'}")
    if save.append is not None:
        parts.extend(entry_words(entry) for entry in save.append.entries)
    return ", ".join(parts)


def _append_words(message: Append) -> str:
    entries = Batch.decode(message.body).entries if message.body else ()
    holds = " ".join(entry_words(entry) for entry in entries) or "nothing"
    words = f"append t{message.term} after {message.prev_index}@{message.prev_term}: {holds}, "
    words += f"commit {message.commit}"
    words += f", round {message.round}" if message.round else ""
    return words + (f", repair {message.repair}" if message.repair else "")


def _reply_words(message: AppendReply) -> str:
    said = f"has {message.match}" if message.ok else f"refuses, perhaps {message.match}@{message.hint_term}"
    words = f"reply t{message.term} {said}"
    words += f", round {message.round}" if message.round else ""
    return words + (f", repair {message.repair}" if message.repair else "")


def message_words(message: Message) -> str:
    if isinstance(message, Append):
        return _append_words(message)
    if isinstance(message, AppendReply):
        return _reply_words(message)
    term = f"t{message.term}"
    if isinstance(message, VoteAsk):
        what = "pre-vote?" if message.pre else "vote?"
        told = ", told to" if message.force else ""
        return f"{what} {term}, log ends {message.last_index}@{message.last_term}{told}"
    if isinstance(message, VoteReply):
        return f"{'pre-vote' if message.pre else 'vote'} {'yes' if message.granted else 'no'} {term}"
    if isinstance(message, SnapshotOffer):
        meta = message.meta
        return f"offer {term} snapshot {meta.index}@{meta.term} voters {voters_words(meta.voters)}"
    if isinstance(message, SnapshotReply):
        return f"snapshot {message.index} {'installed' if message.ok else 'not installed'} {term}"
    if isinstance(message, ReadAsk):
        return f"read {message.id}? {term}"
    if isinstance(message, ReadReply):
        return f"read {message.id} {f'at {message.index}' if message.index else 'refused'} {term}"
    assert isinstance(message, CampaignNow)
    return f"campaign now {term}"
