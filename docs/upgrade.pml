/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new QEMU under a running guest, as a model for spin: the commit of farfault upgrade, which is a
 * word in memory that two engines share (design/upgrade.md). An engine dies at any step, alone or
 * with its relay; a QEMU is killed; the engines lose each other; the command is killed.
 *
 *   scripts/check-model         checks every property below, and that the model can fail
 *
 * Names that begin with FF_ are those of the code (contract/state.h, contract/upgrade-commit.h,
 * migration/upgrade/link.h, migration/common/config.h); scripts/check-model compares them. Handover and
 * Takeover are the sequences of engines of the old and of the new QEMU, as in protocol.pml: what a
 * next one finds is what is stored, and what its relay holds, or QEMU keeps if that has died. A
 * step between two places where it may die is what the code does in one go.
 *
 * Abstractions: memory is one page, to which the new QEMU writes as it loads device state, or when it
 * must not; an engine that says nothing for too long, one that fails and a client that cancels are
 * one (a wait that is given up); the disks are one file; farfault attach is the next engine of a
 * relay that has died. There is one upgrade: the next one makes a pact of its own.
 *
 * HOLE_* take one safety out each: spin has to find that.
 */
#ifndef DEATHS
#define DEATHS 2 /* of engines, both sides together */
#endif
#ifndef KILLS
#define KILLS 1 /* of QEMUs, by others */
#endif

mtype = {
    FF_PHASE_IDLE, FF_PHASE_SETUP, FF_PHASE_STOPPED, FF_PHASE_LOADING, FF_PHASE_LOADED,
    FF_PHASE_GRANTED, FF_PHASE_DONE, FF_PHASE_DEAD,
    FF_RUN_NONE, FF_RUN_MINE, FF_RUN_GIVEN,
    FF_UPGRADE_COMMIT_OPEN, FF_UPGRADE_COMMIT_GIVEN, FF_UPGRADE_COMMIT_TAKEN, FF_UPGRADE_COMMIT_OLD,
    FF_STATUS_ACTIVE, FF_STATUS_COMPLETED, FF_STATUS_FAILED,
    FF_UPGRADE_OFFER, FF_UPGRADE_ACCEPT, FF_UPGRADE_READY, FF_UPGRADE_DEVICE, FF_UPGRADE_LOADED,
    FF_UPGRADE_GIVE, FF_UPGRADE_RUNNING, FF_UPGRADE_LIFTED
}

/* Stored in the state memfd of each. */
mtype s_phase = FF_PHASE_IDLE, s_right = FF_RUN_NONE;
mtype d_phase = FF_PHASE_IDLE, d_right = FF_RUN_NONE;
bool d_resumed = false;
/* The pact, and who has it: the relay holds it, QEMU keeps it. */
mtype word = FF_UPGRADE_COMMIT_OPEN;
bool kept = false; /* the page, as it was */
bool s_held = false, s_parcel = false, d_held = false, d_parcel = false;
bool s_heir = false; /* the new QEMU's pidfd is held */
/* The QEMUs. Who has the disks has them open for writing. */
bool old_lives = true, old_runs = true, old_disks = true;
bool old_obeys = false; /* it stands, and would obey cont: no migration of its own is under way */
bool old_again = false; /* it has gone on after all */
bool new_lives = true, new_runs = false, new_disks = false;
bool dying = false;     /* the new one has been sent SIGKILL */
bool fed = false, loaded = false, told_cont = false; /* the new one */
bool old_killed = false, new_killed = false; /* by others */
/* Guest memory. */
bool wrong = false;     /* it has what the new QEMU wrote while the guest was not its own */
bool guarded = false;   /* against writes of the new QEMU */
bool guards = false;    /* somebody answers the guard */
bool open_page = false; /* who wrote was let go */
bool loads = false;     /* there is something to load, so what is written may be kept */
/* What the command sees. */
bool s_eof = false;     /* the end of the old QEMU's monitor: its relay has died */
mtype s_status = FF_STATUS_ACTIVE, d_status = FF_STATUS_ACTIVE;
bool s_over = false, d_over = false; /* nobody comes after this engine */
byte deaths = 0, kills = 0;
/* The connection. What was sent before its end can be read still. */
bool up = true;
chan to_old = [4] of { mtype };
chan to_new = [4] of { mtype };

#define SEND(to, what) if :: atomic { up && nfull(to) -> to!what } :: !up fi

/* The engine dies, alone or with its relay, whose next one has what QEMU keeps. */
#ifdef HOLE_UFFD_NOT_HELD
#define GUARD_ENDS guards = false; guarded = false
#else
#define GUARD_ENDS guards = false /* writers wait: other processes hold the userfaultfd as well */
#endif
#define DIES(who) atomic { deaths < DEATHS -> deaths++; goto who##_dies }

/* What the code does in one go, after which the engine may die. It ends with its QEMU. */
#define S_STEP(does) \
    atomic { if :: old_lives -> does :: else -> goto s_ended fi }; \
    if :: DIES(s) :: skip fi
#define D_STEP(does) \
    atomic { if :: new_lives -> does :: else -> goto d_ended fi }; \
    if :: DIES(d) :: skip fi

/* Every store is one that the journal allows (migration/common/ownership-steps.h): scripts/check-model makes
 * these four out of it, in front of this file. */
#define S_PHASE(to) assert(S_PHASE_MAY(s_phase, to)); s_phase = to
#define D_PHASE(to) assert(D_PHASE_MAY(d_phase, to)); d_phase = to
#define S_RIGHT(to) assert(S_RIGHT_MAY(s_phase, s_right, to)); s_right = to
#define D_RIGHT(to) assert(D_RIGHT_MAY(d_phase, d_right, to)); d_right = to

/* ff_upgrade_commit_change(), ff_upgrade_commit_keep_guest() */
#define CHANGE(from, to, otherwise) if :: word == from -> word = to :: else -> goto otherwise fi
#define KEEP_GUEST(otherwise) \
    if \
    :: pact && word == FF_UPGRADE_COMMIT_TAKEN -> goto otherwise \
    :: pact && word != FF_UPGRADE_COMMIT_TAKEN -> word = FF_UPGRADE_COMMIT_OLD \
    :: !pact \
    fi

/* ---- the old QEMU's engines: migration/upgrade/old-side.c ------------------------------------------------ */

active proctype Handover()
{
    bool pact = false; /* this engine has mapped it */
    bool stopped = false;

    S_STEP(S_RIGHT(FF_RUN_MINE));
    S_STEP(S_PHASE(FF_PHASE_SETUP));
    /* accept_peer() */
    if
    :: to_old?FF_UPGRADE_OFFER
    :: goto s_roll_back
    fi;
    S_STEP(s_heir = true);
    S_STEP(s_held = true; pact = true);
#ifndef HOLE_NOT_KEPT
    S_STEP(s_parcel = true);
#endif
#ifndef HOLE_NO_GUARD
    S_STEP(guarded = true; guards = true);
#endif
    SEND(to_new, FF_UPGRADE_ACCEPT);
    if
    :: to_old?FF_UPGRADE_READY
    :: goto s_roll_back
    fi;
    /* stop_guest(); QEMU's migration stops a guest that somebody has resumed meanwhile, and lets go
     * of the disks before it has said all of its state */
    S_STEP(S_PHASE(FF_PHASE_STOPPED));
    stopped = true;
    S_STEP(old_runs = false; old_obeys = true);
    S_STEP(old_runs = false; old_obeys = false);
#ifndef HOLE_DISKS_STAY
    S_STEP(old_disks = false);
#endif
    S_STEP(loads = true);
    SEND(to_new, FF_UPGRADE_DEVICE);
    if
    :: to_old?FF_UPGRADE_LOADED
    :: goto s_roll_back
    fi;
    /* give_right() */
    S_STEP(S_RIGHT(FF_RUN_GIVEN));
    S_STEP(S_PHASE(FF_PHASE_GRANTED));
    S_STEP(CHANGE(FF_UPGRADE_COMMIT_OPEN, FF_UPGRADE_COMMIT_GIVEN, s_roll_back));
    SEND(to_new, FF_UPGRADE_GIVE);
    if
    :: to_old?FF_UPGRADE_RUNNING
    :: goto s_roll_back
    fi;

s_finish:
    do
    :: to_old?FF_UPGRADE_LIFTED -> break
    :: to_old?FF_UPGRADE_RUNNING
    :: to_old?FF_UPGRADE_LOADED
    :: to_old?FF_UPGRADE_READY
    :: !up -> break
    :: up = false /* somebody wants it to end */
    :: DIES(s)
    :: !old_lives -> goto s_ended
    od;
    guards = false;

s_end_old:
    up = false;
    S_STEP(S_PHASE(FF_PHASE_DONE));
    S_STEP(s_status = FF_STATUS_COMPLETED);
#ifdef HOLE_OLD_COMPLETES
    S_STEP(old_obeys = true); /* its state is postmigrate */
#endif
    atomic { old_lives = false; old_runs = false; old_disks = false; old_obeys = false };
    goto s_ended;

s_roll_back:
#ifdef HOLE_NO_COMPARE
    S_STEP(if :: pact -> word = FF_UPGRADE_COMMIT_OLD :: else fi);
#else
    S_STEP(KEEP_GUEST(s_finish));
#endif

s_stay: /* keep_guest(), end_heir() */
    up = false;
#ifndef HOLE_END_IS_DEATH
    S_STEP(dying = dying || s_heir);
#ifndef HOLE_NO_WAIT
    if
    :: !s_heir || !new_lives
    :: !old_lives -> goto s_ended
    fi;
#endif
#endif
    guards = false;
    /* put_back() */
    S_STEP(if :: pact && kept -> assert(!old_again); wrong = false :: else fi);
#ifndef HOLE_PUT_BACK_AGAIN
    S_STEP(kept = false);
#endif
    S_STEP(if :: s_right == FF_RUN_GIVEN -> S_PHASE(FF_PHASE_STOPPED) :: else fi);
    S_STEP(if :: s_right == FF_RUN_GIVEN -> S_RIGHT(FF_RUN_MINE) :: else fi);
    /* restart_guest(): SHUT(1), after which QEMU opens its disks, then cont */
    S_STEP(if :: stopped -> old_disks = true; old_obeys = true :: else fi);
    S_STEP(if :: stopped -> old_runs = true; old_obeys = false; old_again = true :: else fi);
    /* forget() */
    S_STEP(s_parcel = false);
    S_STEP(s_heir = false);
    S_STEP(s_held = false);
    S_STEP(S_RIGHT(FF_RUN_NONE));
    S_STEP(S_PHASE(FF_PHASE_IDLE));
    S_STEP(s_status = FF_STATUS_FAILED);
    goto s_ended;

s_dies: /* ff_old_side_adopt() */
    atomic {
        up = false; GUARD_ENDS;
        if :: skip :: s_held = s_parcel; s_heir = s_parcel; s_eof = true fi;
        pact = s_held; stopped = (s_phase != FF_PHASE_SETUP)
    };
    if
    :: !old_lives -> goto s_ended
    :: old_lives && s_phase == FF_PHASE_IDLE -> goto s_ended
    :: old_lives && s_phase == FF_PHASE_DONE -> goto s_end_old
    :: else
    fi;
    S_STEP(KEEP_GUEST(s_end_old));
    if
    :: !pact && (s_parcel || s_right == FF_RUN_GIVEN) ->
        assert(false) /* stay_stopped(): for ever; QEMU keeps the pact, so it does not come to it */
    :: else -> goto s_stay
    fi;

s_ended:
    atomic { up = false; guards = false; s_over = true }
}

/* ---- the new QEMU's engines: migration/upgrade/new-side.c ------------------------------------------------ */

active proctype Takeover()
{
    bool pact = false;

    D_STEP(D_RIGHT(FF_RUN_NONE));
    D_STEP(D_PHASE(FF_PHASE_SETUP));
    SEND(to_old, FF_UPGRADE_OFFER);
    if
    :: to_new?FF_UPGRADE_ACCEPT
    :: goto d_give_up
    fi;
    D_STEP(d_held = true; pact = true);
    D_STEP(d_parcel = true);
    D_STEP(D_PHASE(FF_PHASE_LOADING));
    SEND(to_old, FF_UPGRADE_READY);
    if
    :: to_new?FF_UPGRADE_DEVICE
    :: goto d_give_up
    fi;
    D_STEP(fed = true);
    if
    :: loaded
    :: goto d_give_up
    fi;
    D_STEP(D_PHASE(FF_PHASE_LOADED));
    SEND(to_old, FF_UPGRADE_LOADED);
    /* take_right(): whatever comes, or the end of the connection, the word decides */
    if
    :: to_new?FF_UPGRADE_GIVE
    :: skip
    fi;
#ifdef HOLE_CONT_FIRST
    D_STEP(told_cont = true);
#endif
    D_STEP(CHANGE(FF_UPGRADE_COMMIT_GIVEN, FF_UPGRADE_COMMIT_TAKEN, d_give_up));

d_granted: /* run_and_complete() */
    D_STEP(D_RIGHT(FF_RUN_MINE));
    D_STEP(D_PHASE(FF_PHASE_GRANTED));

d_run:
    D_STEP(told_cont = true);
    do
    :: new_runs -> break
#ifndef HOLE_LIFT_LATE
    :: atomic { !up && guarded -> guarded = false } /* lift_in_time() */
#endif
    :: DIES(d)
    :: !new_lives -> goto d_ended
    od;
    D_STEP(d_resumed = true);
    SEND(to_old, FF_UPGRADE_RUNNING);
    D_STEP(guarded = false);
    SEND(to_old, FF_UPGRADE_LIFTED);

d_complete:
    D_STEP(if :: d_phase != FF_PHASE_DONE -> D_PHASE(FF_PHASE_DONE) :: else fi);
    D_STEP(d_parcel = false);
    D_STEP(d_held = false);
    D_STEP(D_PHASE(FF_PHASE_IDLE));
    D_STEP(d_status = FF_STATUS_COMPLETED);
    goto d_ended;

d_give_up: /* who has not got the pact leaves the word to the other side */
    D_STEP(KEEP_GUEST(d_never));
    D_STEP(D_PHASE(FF_PHASE_DEAD));

d_kill:
    atomic { up = false; dying = true };
    !new_lives;
    goto d_ended;

d_never:
    assert(false);

d_dies: /* ff_new_side_look(), ff_driver_lift_protection(), ff_new_side_adopt() */
    atomic {
        up = false;
        if :: skip :: d_held = d_parcel fi;
        pact = d_held;
#ifdef HOLE_LIFT_EARLY
        guarded = false;
#endif
        if
        :: d_phase == FF_PHASE_GRANTED || d_phase == FF_PHASE_DONE ||
           (d_phase == FF_PHASE_IDLE && d_right == FF_RUN_MINE) -> guarded = false
        :: else
        fi
    };
    if
    :: !new_lives -> goto d_ended
    :: else
    fi;
    if
    :: d_phase == FF_PHASE_IDLE && d_right == FF_RUN_MINE ->
        D_STEP(d_status = FF_STATUS_COMPLETED);
        goto d_ended
    :: d_phase == FF_PHASE_IDLE && d_right == FF_RUN_NONE -> goto d_kill /* ff_guest_left() */
    :: d_phase == FF_PHASE_DEAD -> goto d_kill
    :: d_phase == FF_PHASE_GRANTED && !d_resumed -> goto d_run
    :: d_phase == FF_PHASE_DONE || (d_phase == FF_PHASE_GRANTED && d_resumed) -> goto d_complete
    :: d_phase == FF_PHASE_LOADED && pact && word == FF_UPGRADE_COMMIT_TAKEN ->
        atomic { guarded = false; goto d_granted }
    :: else
    fi;
    assert(pact || d_phase != FF_PHASE_LOADED); /* it would wait for ever */
    goto d_give_up;

d_ended:
    atomic { up = false; d_over = true }
}

/* ---- the QEMUs ----------------------------------------------------------------------------------- */

active proctype NewQemu()
{
    do
    /* on_page_written() of migration/upgrade/old-side.c */
    :: atomic { new_lives && guarded && guards && !open_page ->
        if
#ifndef HOLE_KEEP_EARLY
        :: !loads -> guards = false; up = false /* the guard has failed, and so has the upgrade */
#endif
        :: else ->
            if :: word != FF_UPGRADE_COMMIT_TAKEN -> kept = true :: else fi;
            open_page = true
        fi }
    /* It writes to memory: as it loads, or for no reason once that is guarded. */
    :: atomic { (fed || guarded) && (!guarded || open_page) && word != FF_UPGRADE_COMMIT_TAKEN && !wrong ->
        wrong = true }
    :: fed && !loaded -> loaded = true
    /* It may have to write as it starts, and opens the disks only then. */
    :: atomic { told_cont && loaded && !new_disks && (!guarded || open_page) -> new_disks = true }
    :: atomic { new_disks && !new_runs -> new_runs = true }
    :: dying -> goto q_ends
    :: atomic { kills < KILLS -> kills++; new_killed = true }; goto q_ends
    :: s_over && d_over && !dying -> goto q_lives
    od;
q_ends:
    atomic { new_lives = false; new_runs = false; new_disks = false };
q_lives:
    skip
}

active proctype OldQemu()
{
    do
    /* At a monitor that is QEMU's own. */
    :: atomic { old_lives && old_obeys && !old_runs -> old_runs = true }
    :: atomic { kills < KILLS && old_lives -> kills++; old_killed = true;
        old_lives = false; old_runs = false; old_disks = false; old_obeys = false };
        break
    :: s_over && d_over -> break
    od
}

/* ---- farfault upgrade: cli/upgrade/switch.c ---------------------------------------------------------- */

active proctype Command()
{
    if
    :: s_status == FF_STATUS_FAILED -> dying = true
    :: s_status == FF_STATUS_COMPLETED || d_status == FF_STATUS_COMPLETED ->
        atomic { old_lives = false; old_runs = false; old_disks = false; old_obeys = false }
#ifdef HOLE_EOF_IS_DEATH
    :: s_eof -> dying = true /* of the old one, so nobody needs the new one any more */
#endif
    :: s_over && d_over
    :: skip /* it has been killed */
    fi
}

/* ---- properties ---------------------------------------------------------------------------------- */

active proctype End()
{
    atomic {
        (s_over && d_over && (!dying || !new_lives)) || (!old_lives && !new_lives) ->
        if
        :: old_lives && word != FF_UPGRADE_COMMIT_TAKEN ->
            assert(old_runs && old_disks && !new_lives)
        :: word == FF_UPGRADE_COMMIT_TAKEN ->
            assert(!old_lives && (new_killed || (new_runs && new_disks && !guarded)))
        :: else -> assert(old_killed)
        fi
    }
}

/* One guest runs, and only where the word says; the new QEMU's engines know it before it does. */
#define NEVER_TWO (!(old_runs && new_runs) && !(old_runs && word == FF_UPGRADE_COMMIT_TAKEN) && \
                   (new_runs -> word == FF_UPGRADE_COMMIT_TAKEN && d_right == FF_RUN_MINE))
/* One of the two has the disks. */
#define ONE_WRITER (!(old_disks && new_disks))
/* A guest that runs in the old QEMU has its memory as it was. */
#define NO_TRACE (!(old_runs && wrong))

ltl safe { [] (NEVER_TWO && ONE_WRITER && NO_TRACE) }
