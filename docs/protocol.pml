/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The right to run, as a model for spin: switchover, cancel, failure, the death of either engine
 * at any step, adoption by the next engine, network loss, recovery with epochs, revoke.
 *
 *   scripts/check-model         checks every property below, and that the model can fail
 *
 * Names that begin with FF_ are those of the code (contract/state.h, migration/common/config.h,
 * net/frame.h); scripts/check-model compares them. One process is one side: its sequence of
 * engines, since an engine that dies is followed by one that knows what is stored (s_phase,
 * s_right, s_epoch; d_phase, d_right, d_epoch, have) and what is real (who runs, what is in
 * memory), and nothing else. A step between two MAY_DIE() is what the code does in one go.
 *
 * Abstractions: a guest has two pages; a lost connection shows on both sides, some time; what
 * was on the way is delivered up to a point and then lost; requests and bulk are one (a page is
 * sent at any time); QEMU and the relay do not die, but see RELAY_DIES, where it is only asked
 * that nothing starts by itself; the operator (or x-farfault-auto-recover, which does the same and
 * changes nothing but who does it) repeats migrate-recover and resume as long as it helps, may
 * revoke in place of it, and ends a side that the other one's end has made superfluous. A peer of
 * whom nothing is heard is a lost connection, whoever of the two finds it first. A paused source can
 * be dumped; then it may be gone for good, if the destination has the guest, which continues from the
 * dump. While it does the source looks for it once at most (so that runs have an end).
 *
 * HOLE_* take one safety out each: spin has to find that.
 */
#ifndef DEATHS
#define DEATHS 2 /* of engines, both sides together */
#endif
#ifndef CUTS
#define CUTS 2 /* of the connection */
#endif

#define ALL 3 /* both pages */

mtype = {
    FF_PHASE_IDLE, FF_PHASE_SETUP, FF_PHASE_STOPPED, FF_PHASE_LOADING, FF_PHASE_LOADED,
    FF_PHASE_GRANTED, FF_PHASE_DONE, FF_PHASE_DEAD,
    FF_RUN_NONE, FF_RUN_MINE, FF_RUN_GIVEN,
    FF_STATUS_SETUP, FF_STATUS_ACTIVE, FF_STATUS_DEVICE, FF_STATUS_POSTCOPY_ACTIVE,
    FF_STATUS_POSTCOPY_PAUSED, FF_STATUS_POSTCOPY_RECOVER, FF_STATUS_COMPLETED, FF_STATUS_FAILED,
    FF_FRAME_PREPARE, FF_FRAME_READY, FF_FRAME_DEVICE, FF_FRAME_LOADED, FF_FRAME_GRANT,
    FF_FRAME_RUNNING, FF_FRAME_PAGES, FF_FRAME_ACK, FF_FRAME_DONE, FF_FRAME_FINISHED,
    FF_FRAME_ABORT,
    FF_FRAME_RESUME, FF_FRAME_RESUME_REPLY, FF_FRAME_HAVE, FF_FRAME_RESUMED,
    FF_FRAME_REVOKE, FF_FRAME_REVOKED
}

/* Stored in the state memfd. */
mtype s_phase = FF_PHASE_IDLE, s_right = FF_RUN_NONE;
mtype d_phase = FF_PHASE_IDLE, d_right = FF_RUN_NONE;
byte s_epoch = 1, d_epoch = 1;
byte have = 0;               /* received at the destination; never cleared */
/* What is real. */
bool s_runs = true, d_runs = false;
byte s_mem = ALL;            /* pages that the source has not released */
bool s_stands = false;       /* stopped, and QEMU's own migration has not begun: it obeys cont */
bool s_resumed = false;      /* somebody did; QEMU has said so, and the guest may have written */
/* What the client sees. */
mtype s_status = FF_STATUS_SETUP, d_status = FF_STATUS_SETUP;
bool cancel = false;
bool s_end = false, d_end = false;  /* this side's migration is over */
bool s_quit = false, d_quit = false; /* the operator ends a side that has become superfluous */
bool s_force = false;        /* the operator has seen that the destination is dead */
bool s_gone = false, d_gone = false; /* its relay, and so its engine, is dead */
/* The source's dump: what it holds, and whether the source has run since. */
byte dump = 0;
bool stale = false;
bool s_lost = false;         /* source and host are gone for good */
bool d_mark = false;         /* stored: FF_MARK_DUMP */
bool visited = false;
/* The connection. */
bool up = true;
bool listening = false;      /* the destination takes RESUME */
byte cuts = 0, deaths = 0;
chan to_d = [2] of { mtype, byte, mtype }; /* frame, epoch or pages, phase */
chan to_s = [2] of { mtype, byte, mtype };

#define SEND_D(f, n) if :: atomic { up && nfull(to_d) -> to_d!f(n, FF_PHASE_IDLE) } :: !up fi
#define SEND_S(f, n, p) if :: atomic { up && nfull(to_s) -> to_s!f(n, p) } :: !up fi

#ifdef RELAY_DIES
#define MAY_DIE(who) \
    if :: deaths < DEATHS -> atomic { deaths++; up = false; goto who##_died } \
       :: deaths < DEATHS -> atomic { deaths++; up = false; who##_gone = true; goto who##_over } \
       :: skip fi
#else
#define MAY_DIE(who) \
    if :: deaths < DEATHS -> atomic { deaths++; up = false; goto who##_died } :: skip fi
#endif

/* Every store is one that the journal allows (migration/common/ownership-steps.h): scripts/check-model makes
 * these four out of it, in front of this file. */
#define S_PHASE(to) assert(S_PHASE_MAY(s_phase, to)); s_phase = to
#define D_PHASE(to) assert(D_PHASE_MAY(d_phase, to)); d_phase = to
#define S_RIGHT(to) assert(S_RIGHT_MAY(s_phase, s_right, to)); s_right = to
#define D_RIGHT(to) assert(D_RIGHT_MAY(d_phase, d_right, to)); d_right = to

/* What the code does in one go, after which the engine may die. */
#define STEP(who, does) atomic { does; MAY_DIE(who) }

/* ---- source: migration/source/source.c, source-recover.c, adopt.c -------------------------------------- */

active proctype Source()
{
    byte dirty = ALL, n;
    mtype phase;
    bool refused = false; /* the guest runs there */
    bool doubt = false;   /* a destination may wait for a grant that will not come */

    /* agree_with_destination() */
    STEP(s, S_RIGHT(FF_RUN_MINE));
    STEP(s, S_PHASE(FF_PHASE_SETUP); s_status = FF_STATUS_ACTIVE);
    SEND_D(FF_FRAME_PREPARE, 0);
    do
    :: to_s?FF_FRAME_READY(_, _) -> break
    :: to_s?FF_FRAME_ABORT(_, _) -> goto s_roll_back
    :: !up || cancel -> goto s_roll_back
    od;
#ifdef HOLE_DUMP_EARLY
    atomic { dump = s_mem; stale = true };
#endif
    /* stop_guest() */
#ifndef HOLE_JOURNAL
    STEP(s, S_PHASE(FF_PHASE_STOPPED));
#endif
    STEP(s, s_runs = false; s_stands = true; s_status = FF_STATUS_DEVICE);
    /* Perhaps the client's continue, and what is there to be told first. QEMU's migration stops a
     * guest that runs. */
    STEP(s, s_stands = false; s_runs = false);
    /* send_device_state(); loading it may need pages */
    SEND_D(FF_FRAME_DEVICE, 0);
    do
    :: to_s?FF_FRAME_LOADED(_, _) -> break
    :: to_s?FF_FRAME_ACK(_, _)
    :: to_s?FF_FRAME_ABORT(_, _) -> goto s_roll_back
    :: !up || cancel || s_resumed -> goto s_roll_back
    :: dirty & 1 -> dirty = dirty & 2; SEND_D(FF_FRAME_PAGES, 1)
    od;
    MAY_DIE(s);
    /* give(): asks QEMU, whose answer comes behind its word of a cont; looks at that and at cancel,
     * and stores GIVEN, under one lock */
#ifdef HOLE_GRANT_FIRST
    SEND_D(FF_FRAME_GRANT, 0);
    MAY_DIE(s);
#endif
    atomic {
        if
        :: cancel -> goto s_roll_back
#ifndef HOLE_RESUMED
        :: s_resumed -> goto s_roll_back
#endif
        :: else ->
            assert(!s_resumed); /* what it wrote behind the last scan is nowhere else */
            S_RIGHT(FF_RUN_GIVEN)
        fi
    }
    MAY_DIE(s);
    STEP(s, S_PHASE(FF_PHASE_GRANTED));
#ifndef HOLE_GRANT_FIRST
    SEND_D(FF_FRAME_GRANT, 0);
#endif

s_postcopy:
    s_status = FF_STATUS_POSTCOPY_ACTIVE;
    do
    :: dirty & 1 -> dirty = dirty & 2; SEND_D(FF_FRAME_PAGES, 1)
    :: dirty & 2 -> dirty = dirty & 1; SEND_D(FF_FRAME_PAGES, 2)
    :: to_s?FF_FRAME_ACK(n, _) ->
        atomic { assert((have & n) == n); s_mem = s_mem & (ALL - n); n = 0 } /* release-ram */
    :: to_s?FF_FRAME_RUNNING(_, _)
    :: to_s?FF_FRAME_DONE(_, _) -> goto s_let_go
    :: !up -> break
    :: atomic { deaths < DEATHS -> deaths++; up = false; goto s_died }
    od;

s_paused:
    assert(s_right == FF_RUN_GIVEN && !s_runs);
    STEP(s, up = false; s_status = FF_STATUS_POSTCOPY_PAUSED);
    if
    :: dump == 0 && s_phase != FF_PHASE_DONE -> dump = s_mem /* farfault dump */
    :: skip
    fi;
    if
    :: atomic { dump != 0 && d_phase == FF_PHASE_GRANTED && (dump | have) == ALL && !up ->
        s_lost = true; s_mem = 0; s_end = true };
        goto s_over
    :: atomic {
        listening && !up ->
        do :: to_d?_(_, _) :: to_s?_(_, _) :: empty(to_d) && empty(to_s) -> break od;
        listening = false;
        up = true
    }
    :: s_quit ->
        assert(s_phase != FF_PHASE_DONE); /* who has heard DONE needs no operator */
        s_end = true;
        goto s_over
    :: s_force -> goto s_take_back
    fi;
    STEP(s, s_status = FF_STATUS_POSTCOPY_RECOVER);
    /* release-ram: memory that is not here any more cannot be gone back to. */
    if
    :: s_phase != FF_PHASE_DONE && s_mem == ALL && !refused -> goto s_revoke
    :: skip
    fi;
    SEND_D(FF_FRAME_RESUME, s_epoch + 1);
    if
    :: to_s?FF_FRAME_RESUME_REPLY(n, phase) ->
        if
        :: n == 0 -> goto s_paused /* sent away */
        :: else -> atomic { assert(n > s_epoch); s_epoch = n; n = 0 }
        fi
    :: !up -> goto s_paused
    fi;
    MAY_DIE(s);
    if
    :: to_s?FF_FRAME_HAVE(n, _) ->
#ifdef HOLE_HAVE
        skip
#else
        dirty = ALL - n; n = 0
#endif
    :: !up -> goto s_paused
    fi;
    assert((dirty & s_mem) == dirty); /* what is asked for can be sent */
    if
    :: phase == FF_PHASE_DONE -> goto s_let_go
    :: else
    fi;
    SEND_D(FF_FRAME_RESUMED, s_epoch);
    MAY_DIE(s);
    if
    :: phase == FF_PHASE_LOADED -> SEND_D(FF_FRAME_GRANT, 0)
    :: else
    fi;
    goto s_postcopy;

s_revoke:
#ifdef HOLE_REVOKE_BLIND
    goto s_take_back;
#endif
    SEND_D(FF_FRAME_REVOKE, 0);
    if
    :: to_s?FF_FRAME_REVOKED(n, _) ->
        if
        :: n == 0 -> goto s_take_back
        :: else -> n = 0; refused = true; goto s_paused
        fi
    :: !up -> goto s_paused
    fi;

s_take_back: /* take_back(), then roll back */
    STEP(s, S_PHASE(FF_PHASE_STOPPED));
    STEP(s, S_RIGHT(FF_RUN_MINE));
    goto s_roll_back;

s_let_go:
    assert(have == ALL);
    STEP(s, S_PHASE(FF_PHASE_DONE));
    /* SHUT(0), undo */
    SEND_D(FF_FRAME_FINISHED, 0);
    MAY_DIE(s);
    up = false;
    S_PHASE(FF_PHASE_IDLE);
    s_status = FF_STATUS_COMPLETED;
    s_end = true;
    goto s_over;

s_roll_back:
    assert(s_right != FF_RUN_GIVEN);
    STEP(s, s_runs = true; s_stands = false; s_resumed = false; stale = (dump != 0));
    SEND_D(FF_FRAME_ABORT, 0);
    MAY_DIE(s);
    up = false;
    STEP(s, S_RIGHT(FF_RUN_NONE));
    S_PHASE(FF_PHASE_IDLE);
    s_status = FF_STATUS_FAILED;
    doubt = true;
    s_end = true;
    goto s_over;

s_died: /* ff_adopt_source() */
    atomic { s_epoch = s_epoch + 1; n = 0 };
    if
    :: s_right == FF_RUN_GIVEN ->
        dirty = ALL;
        if
#ifndef HOLE_ADOPT_DONE
        :: s_phase == FF_PHASE_DONE -> goto s_let_go
#endif
        :: else -> goto s_paused
        fi
    :: else -> goto s_roll_back
    fi;

s_over:
    /* Nobody reads any more; ff_source_tell_roll_back(): it says what ABORT may not have. */
    do
    :: to_s?_(_, _)
    :: atomic { doubt && listening && !up ->
        do :: to_d?_(_, _) :: to_s?_(_, _) :: empty(to_d) && empty(to_s) -> break od;
        listening = false;
        doubt = false;
        up = true;
        to_d!FF_FRAME_REVOKE(0, FF_PHASE_IDLE) }
    :: empty(to_s) && !up && d_end -> break
#ifdef RELAY_DIES
    :: d_gone -> break
    :: s_gone -> break
#endif
    od
}

/* ---- destination: migration/destination/destination.c, dest-recover.c, adopt.c ------------------------------- */

active proctype Destination()
{
    byte n;

    STEP(d, D_PHASE(FF_PHASE_SETUP); d_status = FF_STATUS_ACTIVE);
    if
    :: to_d?FF_FRAME_PREPARE(_, _)
    :: to_d?FF_FRAME_ABORT(_, _) -> goto d_give_up
    :: !up -> goto d_give_up
    fi;
    /* prepare_load(): RAM is emptied and armed */
    STEP(d, D_PHASE(FF_PHASE_LOADING));
    SEND_S(FF_FRAME_READY, 0, FF_PHASE_IDLE);
    do
    :: to_d?FF_FRAME_DEVICE(_, _) -> break
    :: to_d?FF_FRAME_ABORT(_, _) -> goto d_give_up
    :: !up -> goto d_give_up
    od;
    do
    :: to_d?FF_FRAME_PAGES(n, _) -> atomic { have = have | n; n = 0 }
    :: to_d?FF_FRAME_ABORT(_, _) -> goto d_give_up
    :: !up -> goto d_give_up
    :: break /* SHUT(0): loaded */
    :: goto d_give_up /* QEMU cannot load it */
    od;
    MAY_DIE(d);
    STEP(d, D_PHASE(FF_PHASE_LOADED));
    SEND_S(FF_FRAME_LOADED, 0, FF_PHASE_IDLE);

d_loaded: /* may not run, and cannot know whether the source may */
    do
    :: to_d?FF_FRAME_GRANT(_, _) -> break
    :: to_d?FF_FRAME_PAGES(n, _) -> atomic { have = have | n; n = 0 }
    :: to_d?FF_FRAME_ABORT(_, _) -> goto d_give_up
    :: !up -> goto d_paused
    :: atomic { deaths < DEATHS -> deaths++; up = false; goto d_died }
    od;
    /* take_over() */
    STEP(d, D_RIGHT(FF_RUN_MINE));
    STEP(d, D_PHASE(FF_PHASE_GRANTED));

d_resume:
    STEP(d, d_runs = true);
    SEND_S(FF_FRAME_RUNNING, 0, FF_PHASE_IDLE);

d_postcopy:
    d_status = FF_STATUS_POSTCOPY_ACTIVE;
    do
    :: to_d?FF_FRAME_PAGES(n, _) ->
        MAY_DIE(d); /* read, not placed */
        STEP(d, have = have | n);
        SEND_S(FF_FRAME_ACK, n, FF_PHASE_IDLE);
        n = 0
    :: have == ALL -> goto d_complete
    :: !up -> goto d_paused
    :: atomic { deaths < DEATHS -> deaths++; up = false; goto d_died }
    od;

d_complete:
    STEP(d, D_PHASE(FF_PHASE_DONE));
    d_mark = false;
    d_status = FF_STATUS_COMPLETED;
    SEND_S(FF_FRAME_DONE, 0, FF_PHASE_IDLE);
    do
    :: to_d?FF_FRAME_FINISHED(_, _) -> goto d_finished
    :: to_d?FF_FRAME_PAGES(n, _) -> atomic { assert((have & n) == n); n = 0 } /* dropped */
    :: !up -> break
    /* The source's QEMU hangs, or the client pauses: ff_dest_hear_finished() */
    :: atomic { up -> up = false }; break
    :: atomic { deaths < DEATHS -> deaths++; up = false; goto d_died }
    od;
    goto d_paused; /* ff_dest_linger(): the source is told when it comes back */

d_finished:
    atomic { D_PHASE(FF_PHASE_IDLE); up = false; listening = false; d_end = true };
    goto d_over;

d_paused:
    atomic { up = false; n = 0;
    if
    :: d_phase == FF_PHASE_DONE -> d_status = FF_STATUS_COMPLETED
    :: else -> d_status = FF_STATUS_POSTCOPY_PAUSED
    fi;
    MAY_DIE(d);
    listening = true };
    if
    :: !listening /* somebody has connected */
    /* ff_dest_dump_use(): verified; what neither has is refused */
    :: atomic { d_phase == FF_PHASE_GRANTED && dump != 0 && (dump | have) == ALL && listening ->
        listening = false }; goto d_use_dump
    :: atomic { d_quit && listening -> listening = false };
        goto d_give_up
    /* The source does not come back in time: nothing is lost by it. */
    :: atomic { d_phase == FF_PHASE_DONE && listening -> listening = false }; goto d_finished
    :: deaths < DEATHS -> atomic { deaths++; up = false; goto d_died }
    fi;
    if
    :: to_d?FF_FRAME_RESUME(n, _) ->
        if
        :: n > d_epoch -> atomic { d_epoch = n; n = 0 }
        :: else -> atomic { d_epoch = d_epoch + 1; n = 0 }
        fi
    :: to_d?FF_FRAME_REVOKE(_, _) ->
        if
        :: d_phase == FF_PHASE_LOADED -> goto d_revoked
        :: else -> SEND_S(FF_FRAME_REVOKED, 1, FF_PHASE_IDLE); !up; goto d_paused
        fi
    :: !up -> goto d_paused
    fi;
    MAY_DIE(d);
    SEND_S(FF_FRAME_RESUME_REPLY, d_epoch, d_phase);
    MAY_DIE(d);
    SEND_S(FF_FRAME_HAVE, have, FF_PHASE_IDLE);
    if
    :: d_phase == FF_PHASE_DONE ->
        if
        :: to_d?FF_FRAME_FINISHED(_, _) -> goto d_finished
        :: !up -> goto d_paused
        fi
    :: else
    fi;
    d_status = FF_STATUS_POSTCOPY_RECOVER;
    if
    :: to_d?FF_FRAME_RESUMED(n, _) -> atomic { assert(n == d_epoch); n = 0 }
    :: !up -> goto d_paused
    fi;
    MAY_DIE(d);
    if
    :: d_phase == FF_PHASE_LOADED -> goto d_loaded
    :: else -> goto d_postcopy
    fi;

d_use_dump: /* commit_dump() */
    assert(!stale); /* what it holds is the memory that the guest was given with */
    STEP(d, d_epoch = d_epoch + 1);
    STEP(d, d_mark = true);

d_from_dump:
    atomic { up = false; listening = !visited && have != ALL; d_status = FF_STATUS_POSTCOPY_ACTIVE };
    do
    :: have != ALL -> STEP(d, have = have | (dump & 1)); STEP(d, have = have | (dump & 2))
    :: atomic { have == ALL && (listening || !up) -> listening = false }; goto d_complete
    :: atomic { up && !listening && !visited -> visited = true }; break
    :: atomic { deaths < DEATHS -> deaths++; up = false; listening = false; goto d_died }
    od;
    if
    :: to_d?FF_FRAME_RESUME(_, _) -> /* ff_dest_send_away() */
#ifdef HOLE_DUMP_DONE
        SEND_S(FF_FRAME_RESUME_REPLY, d_epoch + 3, FF_PHASE_DONE);
        SEND_S(FF_FRAME_HAVE, have, FF_PHASE_IDLE);
#else
        SEND_S(FF_FRAME_RESUME_REPLY, 0, d_phase);
#endif
        !up
    :: to_d?FF_FRAME_REVOKE(_, _) -> SEND_S(FF_FRAME_REVOKED, 1, FF_PHASE_IDLE); !up
    :: !up
    fi;
    goto d_from_dump;

d_revoked: /* ff_dest_take_revoke(): dead first, then its QEMU ends, then it says so */
    STEP(d, D_PHASE(FF_PHASE_DEAD));
    SEND_S(FF_FRAME_REVOKED, 0, FF_PHASE_IDLE);
    goto d_give_up;

d_give_up: /* abandon(): this QEMU ends, it never runs */
    assert(!d_runs);
    D_PHASE(FF_PHASE_DEAD);
    d_status = FF_STATUS_FAILED;
    SEND_S(FF_FRAME_ABORT, 0, FF_PHASE_IDLE);
    up = false;
    d_end = true;
    goto d_over;

d_died: /* ff_adopt_destination() */
    listening = false;
    atomic { d_epoch = d_epoch + 1; n = 0 };
    if
    :: d_phase == FF_PHASE_GRANTED && !d_runs ->
#ifndef HOLE_NOT_STARTED
        d_runs = true;
#endif
        if :: d_mark -> goto d_from_dump :: else -> goto d_paused fi
    :: d_phase == FF_PHASE_GRANTED && d_runs ->
        if :: d_mark -> goto d_from_dump :: else -> goto d_paused fi
    :: d_phase == FF_PHASE_LOADED -> goto d_paused
    :: d_phase == FF_PHASE_DONE -> d_status = FF_STATUS_COMPLETED; goto d_finished
    :: d_phase == FF_PHASE_SETUP || d_phase == FF_PHASE_LOADING -> goto d_give_up
    :: d_phase == FF_PHASE_DEAD -> /* its QEMU lives still */
#ifdef HOLE_DEAD_LIVES
        up = false;
        d_runs = true; /* the client's cont */
#endif
        goto d_give_up
    fi;

d_over:
    do
    :: to_d?_(_, _)
    :: empty(to_d) && !up && s_end -> break
#ifdef RELAY_DIES
    :: s_gone -> break
    :: d_gone -> break
#endif
    od
}

/* ---- the world ----------------------------------------------------------------------------------- */

active proctype Network()
{
    do
    :: cuts < CUTS && up -> atomic { cuts++; up = false }
    :: s_end && d_end -> break
#ifdef RELAY_DIES
    :: s_gone || d_gone -> break
#endif
    od
}

/* At a monitor that is QEMU's own. */
active proctype Human()
{
end_human:
    atomic { s_stands && !s_runs -> s_runs = true; s_resumed = true }
}

/* At a QMP monitor of a source that is completed, where QEMU would obey (guest/relay/monitor.c). */
active proctype Client()
{
end_client:
    atomic {
        s_end && s_status == FF_STATUS_COMPLETED ->
        if
#ifndef HOLE_CONT_LATER
        :: s_right == FF_RUN_GIVEN /* refused: ff_state_is_given() */
#endif
        :: else -> s_runs = true
        fi
    }
}

active proctype Operator()
{
    do
    :: !cancel && s_status != FF_STATUS_POSTCOPY_ACTIVE -> cancel = true
    /* "the guest continues here", at the source: the loaded copy is superfluous. */
    :: s_status == FF_STATUS_FAILED && d_status == FF_STATUS_POSTCOPY_PAUSED && !d_quit -> d_quit = true
    /* "the source has taken the guest back", at the destination, and the source does not know. */
    :: d_end && d_status == FF_STATUS_FAILED && s_status == FF_STATUS_POSTCOPY_PAUSED && !s_force ->
        s_force = true
    :: d_end && d_status == FF_STATUS_COMPLETED && s_status == FF_STATUS_POSTCOPY_PAUSED && !s_quit ->
        s_quit = true
    :: s_end && d_end -> break
#ifdef RELAY_DIES
    :: s_gone || d_gone -> goto lost
#endif
    od;
    /* However it went, the guest runs at one side, with all of its memory. */
    assert(s_runs + d_runs == 1 && (d_runs -> have == ALL : 1));
#ifdef RELAY_DIES
lost:
    skip
#endif
}

/* ---- properties ----------------------------------------------------------------------------------
 *
 * Beside these two: no deadlock (every run that ends has both sides at their end), no run continues
 * for ever, and Operator's assertion. The three together: there is always a way forward, and it
 * leads to a guest that runs.
 */

/* One guest runs at most once, and only with the right to. */
ltl never_two { [] (!(s_runs && d_runs) && !(s_runs && s_right == FF_RUN_GIVEN) &&
                    !(d_runs && s_right == FF_RUN_MINE)) }
/* Every page is on one of the sides; a guest that runs at the source has all of them there. */
ltl pages_kept { [] ((s_mem | have | (s_lost -> dump : 0)) == ALL && (s_runs -> s_mem == ALL)) }
