/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The steps of the journal, one row for each way in which phase and right to run may change. No
 * include guard: a file that includes it defines FF_JOURNAL_STEP, and P1 to P5 for sets of phases.
 *
 *   FF_JOURNAL_STEP(side, step, phases before, rights before, phase after, right after, order, why)
 *
 * NOT_GIVEN, GIVEN, ANY: rights before. KEEP: the right stays. RIGHT_FIRST, PHASE_FIRST: which of
 * the two is stored first, so what an engine finds that comes after a crash between the two.
 *
 * migration/common/ownership.c makes its table of it, scripts/check-model what docs/protocol.pml
 * may store.
 */
FF_JOURNAL_STEP(SOURCE, SETUP, P1(IDLE), ANY, SETUP, MINE, RIGHT_FIRST,
                "the migration begins; the guest runs here")
FF_JOURNAL_STEP(SOURCE, STOPPED, P1(SETUP), NOT_GIVEN, STOPPED, KEEP, RIGHT_FIRST,
                "the guest is being stopped, by us")
FF_JOURNAL_STEP(SOURCE, RESUMED, P1(STOPPED), NOT_GIVEN, SETUP, KEEP, RIGHT_FIRST,
                "a live snapshot: the guest runs again, its memory is being written")
FF_JOURNAL_STEP(SOURCE, GIVE, P1(STOPPED), NOT_GIVEN, GRANTED, GIVEN, RIGHT_FIRST,
                "the commit point: the guest is the peer's, and GRANT may leave")
FF_JOURNAL_STEP(SOURCE, TAKE_BACK, P2(STOPPED, GRANTED), GIVEN, STOPPED, MINE, PHASE_FIRST,
                "the destination has ended and never had the guest; a roll back follows")
FF_JOURNAL_STEP(SOURCE, DONE, P3(STOPPED, GRANTED, DONE), GIVEN, DONE, KEEP, RIGHT_FIRST,
                "every page is at the destination; QEMU may end its migration")
FF_JOURNAL_STEP(SOURCE, IDLE, P3(IDLE, SETUP, STOPPED), NOT_GIVEN, IDLE, NONE, RIGHT_FIRST,
                "rolled back, or QEMU carries the migration; nothing is left to undo")
FF_JOURNAL_STEP(SOURCE, IDLE, P1(DONE), GIVEN, IDLE, KEEP, RIGHT_FIRST,
                "completed; nothing is left to undo")
FF_JOURNAL_STEP(SOURCE, RECLAIM, P1(IDLE), GIVEN, IDLE, NONE, RIGHT_FIRST,
                "completed, and the user says that the guest is nowhere else: cont is obeyed here")

FF_JOURNAL_STEP(DESTINATION, SETUP, P1(IDLE), ANY, SETUP, NONE, RIGHT_FIRST, "a source has come")
FF_JOURNAL_STEP(DESTINATION, LOADING, P1(SETUP), ANY, LOADING, KEEP, RIGHT_FIRST,
                "guest RAM is being emptied and armed, device state is loaded")
FF_JOURNAL_STEP(DESTINATION, LOADED, P1(LOADING), ANY, LOADED, KEEP, RIGHT_FIRST,
                "device state is loaded, and LOADED may leave; the guest must not run")
FF_JOURNAL_STEP(DESTINATION, GRANT, P1(LOADED), ANY, GRANTED, MINE, RIGHT_FIRST,
                "the commit point of this side: the guest may run here")
FF_JOURNAL_STEP(DESTINATION, DONE, P1(GRANTED), ANY, DONE, KEEP, RIGHT_FIRST,
                "every page is here, the userfaultfd is unregistered")
FF_JOURNAL_STEP(DESTINATION, DEAD, P5(IDLE, SETUP, LOADING, LOADED, DEAD), ANY, DEAD, KEEP,
                RIGHT_FIRST, "given up, or revoked: this QEMU ends and never runs the guest")
FF_JOURNAL_STEP(DESTINATION, IDLE, P2(IDLE, SETUP), ANY, IDLE, NONE, RIGHT_FIRST,
                "QEMU carries the migration")
FF_JOURNAL_STEP(DESTINATION, IDLE, P2(DONE, DEAD), ANY, IDLE, KEEP, RIGHT_FIRST,
                "completed, or given up by a QEMU that stays; nothing is left to undo")
