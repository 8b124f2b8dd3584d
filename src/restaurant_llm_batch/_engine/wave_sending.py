"""
From lines to a batch: a wave is written down, uploaded, and its batch created; or the batch of an earlier run is found.

Theory of operation. What is written down, and when, decides what a kill costs:

    journal of the wave     meaning                             what the next run does
    "n PROCESS"             the batch may be made               looks for a batch of that name; if there is none, and
                                                                the process is gone, the lines were never sent
    "f FILE PROCESS"        its file is at the service          the same
    "b BATCH PROCESS"       the batch is there                  looks at it

After "n" come the rows of the lines. They are claimed: of two processes that have one store and ask the same at the
same time, one sends a line, and the other finds its wave in the journal. So it does with all that another process has
sent: it waits for the batch, and collects it too, but does not cancel it while the other one may be alive.

A request whose fate is unknown is never just made again: a batch is first looked for by the wave's name, which it
carries. Uploads and looks cost nothing, and are repeated.
"""

from __future__ import annotations

from functools import partial

from .._store.wave_journal import WaveJournal, WaveNote, may_live, this_process
from ..errors import (
    BackendError,
    PermanentBackendError,
    RateLimited,
    RunStopped,
    SubmissionUnknown,
    TransientBackendError,
)
from ..steps import Sleep
from . import wave_timing as timing
from .wave_file import Wave
from .wave_requests import WaveSteps, done, journalled, pause, retried
from .wave_service import BatchState, FileNotVisible
from .waves import AGAIN, Waves, log

_NO_LIST = (404, 405, 501)
_CLAIMS = 3
"""How often lines are claimed: again if the row that was in the way is of a wave that is over."""


def send(wave: Wave, waves: Waves) -> WaveSteps[BatchState | None]:
    """
    Send a wave: its name and its lines are in the journal before the batch is made.

    Returns:
        Its batch; None if nothing is left to send: other waves have its lines, or no flow waits for them any more.

    Raises:
        BackendError: It could not be sent. If `Wave.creating` is true, its batch may exist all the same.
    """
    journal = waves.journal
    gone = [key for key, line in wave.lines.items() if not line.users]
    if journal is not None:
        yield from journalled(partial(journal.record_note, wave.id, WaveNote(this_process())))
        keys = [key for key, line in wave.lines.items() if line.users]
        for start in range(0, len(keys), timing.SLICE):
            gone += yield from _claimed_by_others(keys[start : start + timing.SLICE], wave, waves, journal)
            yield Sleep(0)
        if journal.claim_seconds:
            yield Sleep(journal.claim_seconds)
            held = set(keys).difference(gone)
            gone += [key for key in held if journal.wave_of(key) not in (None, wave.id)]
    if gone:
        log.info("%d calls of a wave are in others, or are not waited for any more", len(gone))
        for line in wave.leave_out(gone):
            waves.answer(line, AGAIN)
        if not wave.lines:
            return None
    wave.file_id = yield from retried(waves, partial(_upload, wave, waves), timing.MAX_TRIES)
    if journal is not None:
        note = WaveNote(this_process(), file_id=wave.file_id)
        yield from journalled(partial(journal.record_note, wave.id, note))
    batch = yield from _created(wave, waves)
    waves.sent += 1
    log.info("%d calls were sent as batch %r", len(wave.lines), batch.id)
    yield from _marked_sent(wave, waves)
    return batch


def _marked_sent(wave: Wave, waves: Waves) -> WaveSteps[None]:
    lines = list(wave.lines.values())
    for start in range(0, len(lines), timing.SLICE):
        waves.mark_sent(lines[start : start + timing.SLICE])
        yield Sleep(0)


def _claimed_by_others(
    keys: list[bytes], wave: Wave, waves: Waves, journal: WaveJournal
) -> WaveSteps[list[bytes]]:
    """Write lines into the journal, and return the keys of those that another wave has there."""
    found: dict[bytes, str] = {}
    for _ in range(_CLAIMS):
        yield from journalled(partial(journal.claim_lines, keys, wave.id))
        others = {key: name for key in keys if (name := journal.wave_of(key)) not in (None, wave.id)}
        are_known = {name: waves.is_known(name) for name in set(others.values())}
        found |= {key: name for key, name in others.items() if are_known[name]}
        keys = [key for key, name in others.items() if not are_known[name]]
        if not keys:
            break
        for key in keys:
            journal.forget_line(key, others[key])
    return list(found)


def _upload(wave: Wave, waves: Waves) -> str:
    if wave.is_over:
        raise RunStopped("the run has ended")  # and the file is closed
    return waves.service.upload(wave.file.rewind(), f"{wave.id}.jsonl")


def _created(wave: Wave, waves: Waves) -> WaveSteps[BatchState]:
    """Create the batch of a wave, or find it if it may have been created."""
    tries = refusals = 0
    for wait in timing.waits():
        try:
            wave.creating = True
            return (yield from done(waves, partial(_create, wave, waves)))
        except BackendError as error:
            if not _was_refused(error):
                found = yield from _found(wave, waves, wave.file_id)
                if found is not None:
                    _note_batch(wave, waves, found.id)
                    return found
            wave.creating = False
            if not isinstance(error, TransientBackendError):
                raise
            tries, refusals = tries + 1, refusals + isinstance(error, RateLimited)
            if tries - refusals >= timing.MAX_TRIES or refusals >= timing.MAX_REFUSALS:
                raise
            log.info("the batch was not created, and is created again: %s", error)
            yield pause(wait, error)
    raise AssertionError("unreachable")


def _was_refused(error: BackendError) -> bool:
    """Return whether an error says that the service has not made the batch."""
    refused = error.status is not None and 400 <= error.status < 500 and error.status != 408
    never_sent = isinstance(error, TransientBackendError) and error.local_shortage
    return refused or never_sent or isinstance(error, (RateLimited, FileNotVisible))


def _create(wave: Wave, waves: Waves) -> BatchState:
    """Create the batch, and note its id in the same thread: the run may be over by then."""
    batch = waves.service.create(wave.file_id, wave.id)
    _note_batch(wave, waves, batch.id)
    if wave.is_over and waves.service.on_stop == "cancel" and wave.claim_cancel():
        waves.service.cancel_later([batch.id])
    return batch


def _note_batch(wave: Wave, waves: Waves, batch_id: str) -> None:
    wave.batch_id = batch_id
    if waves.journal is not None:
        waves.journal.record_note(wave.id, WaveNote(this_process(), batch_id=batch_id), _ignore)


def find_again(wave: Wave, waves: Waves) -> WaveSteps[BatchState | None]:
    """
    Return the batch of a wave that an earlier run, or another process, has sent; None if there is none.

    What has become of the batch is not known yet: its status is "".

    Raises:
        BackendError: It cannot be found out.
    """
    waited, looks, journal = 0.0, 0, waves.journal
    while True:
        note = None if journal is None else journal.note_of(wave.id)
        if note is None:
            return None
        wave.is_foreign = may_live(note.owner)
        if note.batch_id:
            yield from _adopted(wave, waves, note.batch_id)
            return BatchState(note.batch_id, "")
        wave.creating = True
        batch = yield from _found(wave, waves, note.file_id)
        if batch is not None:
            yield from _adopted(wave, waves, batch.id)
            return batch
        looks += 1
        if looks >= 2 and (not wave.is_foreign or waited >= timing.FOREIGN_WAIT):
            return None
        wait = timing.LOOK_AGAIN * (timing.GROWTH**looks if wave.is_foreign else 1.0)
        yield Sleep(min(timing.LONGEST, wait))
        waited += min(timing.LONGEST, wait)


def _adopted(wave: Wave, waves: Waves, batch_id: str) -> WaveSteps[None]:
    """Take over a batch, unless another process may wait for it, which counts its calls as its own."""
    wave.batch_id = batch_id
    if not wave.is_foreign:
        _note_batch(wave, waves, batch_id)
        wave.is_paid = True
        yield from _marked_sent(wave, waves)


def _found(wave: Wave, waves: Waves, file_id: str) -> WaveSteps[BatchState | None]:
    """Look for the wave's batch among all batches; return None if it is not there."""
    find = partial(waves.service.find, wave.id, file_id)
    try:
        return (yield from retried(waves, find, timing.LONG_TRIES))
    except TransientBackendError as error:
        raise PermanentBackendError(
            f"whether batch {wave.id} was made cannot be found out, so its calls are not sent again; run again with "
            f"the same store: {error}"
        ) from error
    except PermanentBackendError as error:
        if error.status not in _NO_LIST:
            raise
        raise SubmissionUnknown(
            f"batch {wave.id} may have been made, and the service lists no batches: {error}"
        ) from error


def _ignore(_: Exception | None) -> None:
    """Do nothing: the batch is found by the wave's name."""
