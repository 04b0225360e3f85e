/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest whose first process stays as its front (design/upgrade.md "A front"), as a model for spin:
 * who ends when who has ended. The commit itself is upgrade.pml's.
 *
 * The front (A) is what others know; behind it a QEMU has the guest (B), which goes on to a third
 * one (C), or not. Somebody kills the front, or the QEMU that has the guest, or relays, at any
 * moment. Messages at the front's door come in their order, and are there before the end of a
 * process that came after they were sent.
 *
 * Abstractions: engines are steps of their relays; a relay that dies has no next one; the orderly
 * ends are ends.
 *
 * HOLE_* take one safety out each: spin has to find that.
 */
#ifndef KILLS
#define KILLS 1 /* of A, or of the QEMU that has the guest */
#endif
#ifndef DEATHS
#define DEATHS 1 /* of relays */
#endif

#define B 1
#define C 2

bool a_lives = true;
bool lives[3] = true;   /* of B and C; 0 is not used */
byte owner = B;         /* who has the guest */
bool relay_a = true, relay_b = true, relay_c = true;
bool b_moves = false;   /* its guest may be C's: its end is not the guest's for its relay */
bool heir_said = false, next_said = false, given_up = false;
byte kills = 0, deaths = 0;
byte heir = B, next = 0; /* as the front's relay knows it */
chan door = [3] of { byte, byte };
#define NEXT 1
#define HEIR 2

/* The front's relay: guest/relay/placeholder.c. */
active proctype FrontsRelay()
{
    byte word, who;

end_waits:
    do
    :: atomic { relay_a && nempty(door) ->
            door?word,who;
            if
            :: word == NEXT -> next = who
            :: word == HEIR -> heir = who; next = 0
            fi }
    /* The end of the heir, behind what was said before it. */
#ifdef HOLE_END_BEFORE_DOOR
    :: atomic { relay_a && a_lives && !lives[heir] ->
#else
    :: atomic { relay_a && a_lives && empty(door) && !lives[heir] ->
#endif
            if
#ifndef HOLE_NO_NEXT
            :: next && lives[next] -> heir = next; next = 0
            :: !(next && lives[next]) ->
#else
            :: true ->
#endif
                assert(!lives[owner]); /* else a guest is lost that nobody has killed */
                a_lives = false
            fi }
    /* The front's end. */
    :: atomic { relay_a && !a_lives && (lives[heir] || (next && lives[next])) ->
            lives[heir] = false;
            if :: next -> lives[next] = false :: else fi }
    od
}

/* In the QEMUs behind: guest/agent/front.c, and their relays do the same. */
active proctype Agents()
{
end_waits:
    do
#ifndef HOLE_NO_AGENT
    :: atomic { !a_lives && lives[B] -> lives[B] = false }
    :: atomic { !a_lives && lives[C] -> lives[C] = false }
#else
    :: atomic { !a_lives && lives[B] && relay_b -> lives[B] = false }
    :: atomic { !a_lives && lives[C] && relay_c -> lives[C] = false }
#endif
    /* guest/relay/behind-placeholder.c: where the front has no relay any more. */
#ifndef HOLE_BEHIND_SLEEPS
    :: atomic { !relay_a && a_lives && relay_b && !lives[B] && !b_moves -> a_lives = false }
    :: atomic { !relay_a && a_lives && relay_c && !lives[C] && owner == C -> a_lives = false }
#endif
    od
}

/* An upgrade: B's relay, then C's. C is killed where it comes to nothing, B where it does not. */
active proctype Upgrade()
{
    atomic { if
    :: relay_b && lives[B] -> next_said = true; if :: relay_a -> door!NEXT,C :: else fi
    :: else -> goto fails
    fi }
    if
    :: true -> goto fails
    :: skip
    fi;
    b_moves = true;
    atomic { if
    :: lives[C] && relay_c && lives[B] -> owner = C /* the word is TAKEN */
    :: else -> goto fails
    fi };
    /* From here on in any order: B is ended, by its engine, by the command, or by C's relay; and the
     * front's relay hears of C. */
    do
    :: atomic { lives[B] -> lives[B] = false }
    :: atomic { relay_c && lives[C] && !heir_said -> heir_said = true; if :: relay_a -> door!HEIR,C :: else fi }
    :: atomic { !lives[B] && (heir_said || !relay_c || !lives[C]) -> break }
    od;
    goto done;
fails:
    atomic { given_up = true; lives[C] = false; b_moves = false }
done:
    skip
}

active proctype Others()
{
end_may:
    do
    :: atomic { kills < KILLS && a_lives -> kills++; a_lives = false }
    :: atomic { kills < KILLS && lives[owner] -> kills++; lives[owner] = false }
    :: atomic { deaths < DEATHS && relay_a -> deaths++; relay_a = false }
    :: atomic { deaths < DEATHS && relay_b -> deaths++; relay_b = false }
    :: atomic { deaths < DEATHS && relay_c -> deaths++; relay_c = false }
    od
}

/* In the end: who killed nobody has a guest; and nothing is left of one whose front, or QEMU, has
 * ended, if the relay that is to see to it lives. */
active proctype End()
{
    timeout;
    assert(kills || (a_lives && lives[owner]));
    assert(a_lives || (!lives[B] && !lives[C]));
    assert(lives[owner] || !a_lives || (!relay_a && !(owner == B -> relay_b : relay_c)))
}
