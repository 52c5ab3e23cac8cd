#!/usr/bin/env python3
"""Explicit-state model of how a write reaches the database exactly once and in order: every interleaving of a small world.

World: a few writes to one record; one log whose unsynced tail a power loss cuts anywhere; one database that commits
transactions now, late, or never, that may lose the answer, and that may come back as an older snapshot of itself.
Checked in every state where everything is drained: each acknowledged write took effect exactly once, in order; a write
whose caller was told "refused" took none. A double fault (log lost its unsynced tail *and* the database went back)
may lose what only those two had: nothing else.

    protocol.py                           explore the protocol: 2 writes to one record; 1,522,264 states, no violation, a minute and a half
    protocol.py --writes 4 --records 2 --faults kills=0,powers=1,backs=0,losses=0,refusals=1    828,295 states, no violation, one minute
    protocol.py --writes 3 --records 2 --faults kills=0,powers=0,backs=1,losses=1,refusals=1    43,756 states, no violation
    protocol.py --writes 3 --faults kills=0,powers=0,backs=0,losses=0,refusals=2                325,751 states, no violation
    protocol.py --faults losses=2         the default with two lost answers
    protocol.py --records 2               the default over two records
    protocol.py --break NAME              plant a bug; the model must find it (see BREAKS)
    protocol.py --every-break             plant each of them in turn, in the smallest world that shows it: seconds

A parked chain is appended again write by write, and anything may happen in between (the code takes up to 200 at once, see
docs/decisions/0003-a-chain-is-appended-again-piece-by-piece.md). Where the code and this model differ: the model has one lane. With several each is this
protocol with a row of its own; a write over several lanes checks and moves all their rows (docs/decisions/0021-lanes-go-in-rounds.md):
the simulation of the whole system explores that. A transaction that is sent behind another one (docs/decisions/0025-the-next-batch-is-sent-ahead.md)
has one write here.
"""
import subprocess
import sys
from collections import namedtuple, deque

BREAKS = {
    "no-generation": "taking over does not change the row, so a late transaction can still commit",
    "fate-while-unknown": "a write may be parked while its transaction's outcome is unknown",
    "same-epoch": "a restart goes on counting in the old epoch",
    "mark-after": "the watermark may pass a parked write before its mark is durable",
    "pass-undecided": "the watermark may pass a write that is neither sent nor marked",
    "no-rejected-mark": "a refused write leaves no mark in the log",
    "lazy-rejected-mark": "the mark of a refused write is not synced before its caller is told",
    "ack-unsynced": "queued is acknowledged before the sync",
    "fate-before-position": "after a restart fates are decided before the position is read",
    "requeue-unsynced": "a write appended again is sent before that entry is durable",
    "overtake": "later writes to the record of a parked write go on",
    "overtake-again": "a write goes on that stands in front of an earlier one of its record which was appended again",
    "no-heal": "a database behind the cursor is treated as nothing in doubt",
    "blind-retry": "after an unknown outcome the batch is sent again without looking",
    "fate-beside-ahead": "a write is parked while a transaction that was sent behind its own may still be under way",
}
# Bugs that the default world is too small to show.
WORLDS = {
    "mark-after": "--records 2",
    "overtake-again": "--faults kills=0,powers=0,backs=0,losses=0,refusals=2",
    "fate-beside-ahead": "--writes 3 --records 2 --faults kills=0,powers=0,backs=0,losses=0,refusals=1",
    "pass-undecided": "--writes 4 --records 2 --faults kills=0,powers=1,backs=0,losses=0,refusals=1",
}
broken = None
WRITES = 2
RECORDS = 1    # write w goes to record w % RECORDS


def record(entry):
    return entry[2] % RECORDS


# An entry of the log: a write (seq, w, origin) or a mark ("parked" | "rejected", seq).
# A transaction: (expected row, next seq, writes, their seqs). `ahead` was sent behind the one in flight, and expects the row that this one leaves.
# Row of the database: (seq, generation, owner).
State = namedtuple("State", """log durable epoch counter up cursor row_known inflight ahead unknown waiting told acked
                               db_row db_effects db_before txs submitted refusals kills powers backs losses""")


BUDGET = dict(refusals=1, kills=1, powers=1, backs=1, losses=1)


def start():
    return State(log=(), durable=0, epoch=1, counter=0, up=True, cursor=(0, 0), row_known=None, inflight=None, ahead=None, unknown=False,
                 waiting=frozenset(), told=frozenset(), acked=frozenset(),
                 db_row=None, db_effects=(), db_before=None, txs=frozenset(), submitted=0, **BUDGET)


def writes_in(log):
    return [e for e in log if e[0] == "write"]


def fate(log, seq):
    for e in log:
        if e[0] in ("parked", "rejected") and e[1] == seq:
            return e[0]
    return None


def requeued(log, seq):
    return any(e[0] == "write" and e[3] == seq for e in log)


def first_id(log, entry):
    while entry[3] is not None:
        entry = [x for x in writes_in(log) if x[1] == entry[3]][0]
    return entry[1]


def append(s, *entries):
    return s._replace(log=s.log + entries)


def next_seq(s):
    return (s.epoch, s.counter + 1)


def pending(s):
    """Entries after the cursor that may be applied now, in order: none behind a parked write of the same record."""
    return [e for e in writes_in(s.log) if e[1] > s.cursor and not fate(s.log, e[1]) and (broken == "overtake" or not behind(s.log, e))]


def behind(log, entry):
    """Is a write to the same record, with an earlier first id, parked and not yet appended again, or was it appended again
    further behind than this one stands?"""
    earlier = [e for e in writes_in(log) if record(e) == record(entry) and first_id(log, e) < first_id(log, entry)]
    return any(fate(log, e[1]) == "parked" and not requeued(log, e[1])
               or broken != "overtake-again" and e[1] > entry[1] and not fate(log, e[1]) for e in earlier)


def passes_only_decided(s, batch, cursor):
    """The watermark may pass what the batch applies and what has a durable mark; nothing else."""
    sent = {e[1] for e in batch}
    marked = {e[1] for e in s.log[:len(s.log) if broken == "mark-after" else s.durable] if e[0] in ("parked", "rejected")}
    return broken == "pass-undecided" or all(e[1] in sent or e[1] in marked
                                             for e in writes_in(s.log) if cursor < e[1] <= batch[-1][1])


def steps(s):
    out = []
    # a client submits
    if s.up and s.submitted < WRITES:
        w = s.submitted + 1
        seq = next_seq(s)
        out.append(("submit %d" % w, append(s, ("write", seq, w, None))._replace(counter=s.counter + 1, submitted=w, waiting=s.waiting | {w})))
    if s.up and s.durable < len(s.log):
        out.append(("sync", s._replace(durable=len(s.log))))
    # a waiting caller leaves with "queued"
    for e in writes_in(s.log):
        i = s.log.index(e)
        w = e[2]
        if s.up and w in s.waiting and (i < s.durable or broken == "ack-unsynced"):
            out.append(("queued %d" % w, s._replace(waiting=s.waiting - {w}, acked=s.acked | {w})))
    # connect: read, decide, take over (atomic here: the compare-and-set makes it so)
    if s.up and (s.row_known is None or s.unknown):
        r = s.db_row
        cursor, ok = s.cursor, True
        if r is None:
            ok = cursor == (0, 0)
        elif r[0] > cursor:
            cursor = r[0]
        elif r[0] < cursor and broken != "no-heal":
            cursor = r[0]
        if broken == "blind-retry" and s.unknown:
            cursor = s.cursor
        if ok:
            seq = r[0] if r else (0, 0)
            row = (seq, (r[1] if r else 0) + (0 if broken == "no-generation" and r else 1), s.epoch)
            if broken == "no-generation" and r:
                row = r
            applied = frozenset(e[2] for e in writes_in(s.log) if e[1] <= cursor and not fate(s.log, e[1]) and e[2] in s.waiting)
            out.append(("take over", s._replace(cursor=cursor, row_known=row, db_row=row, inflight=None, ahead=None, unknown=False,
                                                waiting=s.waiting - applied, acked=s.acked | applied)))
    # the drainer sends a batch of the first one or two pending writes
    if s.up and s.row_known and not s.inflight and not s.unknown:
        p = pending(s)
        for n in (1, 2):
            # a requeued write is durable under its new sequence before it is sent: its old entry is still in the log
            requeues_durable = all(s.log.index(e) < s.durable for e in p[:n] if e[3] is not None) or broken == "requeue-unsynced"
            if len(p) >= n and requeues_durable and passes_only_decided(s, p[:n], s.cursor):
                tx = (s.row_known, p[n - 1][1], tuple(e[2] for e in p[:n]), tuple(e[1] for e in p[:n]))
                out.append(("send %s" % (tx[2],), s._replace(inflight=tx, txs=s.txs | {tx})))
    # and the next one behind it, before it is answered
    if s.up and s.inflight and not s.ahead and not s.unknown:
        p = [e for e in pending(s) if e[1] > s.inflight[1]][:1]
        if p and (p[0][3] is None or s.log.index(p[0]) < s.durable) and passes_only_decided(s, p, s.inflight[1]):
            row = (s.inflight[1],) + s.inflight[0][1:]
            tx = (row, p[0][1], (p[0][2],), (p[0][1],))
            out.append(("send ahead %s" % (tx[2],), s._replace(ahead=tx, txs=s.txs | {tx})))
    # the database decides about transactions
    for tx in s.txs:
        if s.db_row == tx[0]:
            row = (tx[1], tx[0][1], tx[0][2])
            committed = s._replace(db_row=row, db_effects=s.db_effects + tx[2], txs=s.txs - {tx},
                                   db_before=(s.db_row, s.db_effects) if s.db_before is None else s.db_before)
            if s.up and s.inflight == tx and not s.unknown:
                got = frozenset(w for w in tx[2] if w in s.waiting)
                out.append(("commit", committed._replace(cursor=tx[1], row_known=row, inflight=s.ahead, ahead=None, waiting=s.waiting - got, acked=s.acked | got)))
                if s.losses:
                    out.append(("commit, answer lost", committed._replace(unknown=True, losses=s.losses - 1)))
            else:
                out.append(("late commit", committed))
        else:
            dead = s._replace(txs=s.txs - {tx})
            if s.up and s.inflight == tx:
                dead = dead._replace(unknown=True)
            elif s.up and s.ahead == tx:
                # it came before the one in front of it, or that one is refused: it is sent again
                dead = dead._replace(ahead=None)
            out.append(("stale transaction dies", dead))
    if s.up and s.inflight and not s.unknown:
        if s.losses:
            out.append(("connection lost, transaction maybe still under way", s._replace(unknown=True, losses=s.losses - 1)))
        # the database refuses the first write of the batch: certainly nothing committed
        if s.refusals and s.inflight in s.txs and (not s.ahead or broken == "fate-beside-ahead"):
            w, seq = s.inflight[2][0], s.inflight[3][0]
            clear = s._replace(txs=s.txs - {s.inflight}, inflight=None, ahead=None, refusals=s.refusals - 1)
            if w in s.waiting:
                # the mark is synced before the caller is told
                marked = clear if broken == "no-rejected-mark" else append(clear, ("rejected", seq))
                if broken not in ("no-rejected-mark", "lazy-rejected-mark"):
                    marked = marked._replace(durable=len(marked.log))
                out.append(("reject %d" % w, marked._replace(waiting=s.waiting - {w}, told=s.told | {w})))
            else:
                out.append(("park %d" % w, append(clear, ("parked", seq))))
    if broken == "fate-while-unknown" and s.up and s.unknown and s.inflight and s.refusals:
        seq = s.inflight[3][0]
        if not fate(s.log, seq) and s.inflight[2][0] not in s.waiting:
            out.append(("park while unknown", append(s, ("parked", seq))._replace(refusals=s.refusals - 1)))
    if broken == "fate-before-position" and s.up and s.row_known is None and s.refusals:
        for e in pending(s)[:1]:
            if e[2] not in s.waiting:
                out.append(("park before looking", append(s, ("parked", e[1]))._replace(refusals=s.refusals - 1)))
    # a write behind a parked one of its record is parked too
    if s.up and not s.inflight and not s.unknown and s.row_known:
        for e in writes_in(s.log):
            if e[1] > s.cursor and not fate(s.log, e[1]) and behind(s.log, e):
                out.append(("park %d behind" % e[2], append(s, ("parked", e[1]))))
    # a parked write is due: of its record's chain the earliest one is appended again
    if s.up and not s.inflight and not s.unknown and s.row_known:
        for r in range(RECORDS):
            chain = [e for e in writes_in(s.log) if record(e) == r and fate(s.log, e[1]) == "parked" and not requeued(s.log, e[1])]
            if chain:
                e = min(chain, key=lambda e: first_id(s.log, e))
                again = ("write", next_seq(s), e[2], e[1])
                out.append(("requeue %d" % e[2], append(s, again)._replace(counter=s.counter + 1)))
    # faults
    def restart(s, log, tag):
        epoch = s.epoch if broken == "same-epoch" else s.epoch + 1
        last = max([e[1] for e in writes_in(log)], default=(0, 0))
        counter = last[1] if broken == "same-epoch" else 0
        unanswered = s.waiting  # their callers got no answer: free to be or not to be
        return s._replace(log=log, durable=len(log), epoch=epoch, counter=counter, cursor=(0, 0), row_known=None, inflight=None,
                          ahead=None, unknown=False, waiting=frozenset())
    if s.kills:
        out.append(("kill -9", restart(s, s.log, "kill")._replace(kills=s.kills - 1)))
    if s.powers:
        for n in range(s.durable, len(s.log) + 1):
            out.append(("power loss keeps %d of %d" % (n, len(s.log)), restart(s, s.log[:n], "power")._replace(powers=s.powers - 1)))
    if s.backs and s.db_before is not None and s.db_before[0] is not None:
        out.append(("database goes back", s._replace(db_row=s.db_before[0], db_effects=s.db_before[1], backs=s.backs - 1, row_known=None,
                                                     txs=frozenset(), unknown=s.unknown or s.inflight is not None)))
    return out


def done(s):
    return s.up and s.row_known and not s.inflight and not s.unknown and not pending(s) and not s.txs and s.submitted == WRITES \
        and not any(e[0] == "parked" and not requeued(s.log, e[1]) for e in s.log) and s.row_known == s.db_row


def violation(s):
    effects = s.db_effects
    if len(set(effects)) != len(effects):
        return "double effect"
    for w in s.told:
        if w in effects:
            return "refused to its caller, yet applied"
    for r in range(RECORDS):
        one = [w for w in effects if w % RECORDS == r]
        if one != sorted(one):
            return "out of order"
    if done(s):
        in_log = {e[2] for e in writes_in(s.log)}
        for w in s.acked - s.told:
            double_fault = s.powers < BUDGET["powers"] and s.backs < BUDGET["backs"] and w not in in_log
            if w not in effects and not double_fault:
                return "acknowledged, yet lost"
    return None


def explore():
    first = start()
    seen = {first: None}
    todo = deque([first])
    while todo:
        s = todo.popleft()
        for name, t in steps(s):
            if t in seen:
                continue
            seen[t] = (s, name)
            why = violation(t)
            if why:
                trail = []
                x = t
                while seen[x]:
                    trail.append(seen[x][1])
                    x = seen[x][0]
                return len(seen), why, list(reversed(trail)), t
            todo.append(t)
    return len(seen), None, None, None


def every_break():
    """Runs this program once per bug; returns those that went unnoticed."""
    unnoticed = []
    for name in BREAKS:
        run = subprocess.run([sys.executable, __file__, *WORLDS.get(name, "").split(), "--break", name], capture_output=True, text=True)
        print("%-22s %s" % (name, run.stdout.split("\n")[0]), flush=True)
        if run.returncode:
            unnoticed.append(name)
    return unnoticed


if __name__ == "__main__":
    if sys.argv[1:] == ["--every-break"]:
        unnoticed = every_break()
        sys.exit("unnoticed: " + ", ".join(unnoticed) if unnoticed else 0)
    if "--writes" in sys.argv:
        i = sys.argv.index("--writes")
        WRITES = int(sys.argv[i + 1])
        del sys.argv[i:i + 2]
    if "--faults" in sys.argv:
        i = sys.argv.index("--faults")
        BUDGET.update((k, int(v)) for k, v in (x.split("=") for x in sys.argv[i + 1].split(",")))
        del sys.argv[i:i + 2]
    if "--records" in sys.argv:
        i = sys.argv.index("--records")
        RECORDS = int(sys.argv[i + 1])
        del sys.argv[i:i + 2]
    if len(sys.argv) == 3 and sys.argv[1] == "--break":
        broken = sys.argv[2]
        if broken not in BREAKS:
            sys.exit("one of: " + ", ".join(BREAKS))
    n, why, trail, t = explore()
    print("%d states; %s" % (n, why or "no violation"))
    if why:
        print("  " + "\n  ".join(trail))
        print(t)
    sys.exit(bool(why) != bool(broken))
