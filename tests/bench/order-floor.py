#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest that writes by Zipf's law loses behind a switch at the end of a first pass, if its
pages come in the best order there is: by how often each is written, which nobody knows.

No QEMU, no link: each step of the guest, each page on the wire and each wait is reckoned. The law
is that of tests/guest/memwork.c: each power of two of ranks is equally likely. So it stands for
scripts/bench --link 1g --after-pass --mode zipf --write 100; by default as much is written as the
engine sent behind the switch there.

    tests/bench/order-floor.py [--mib N] [--speed STEPS_PER_S] [--link MB_PER_S] [--pass S] [--wait US]
"""
import argparse
import math
import random

PAGE = 4096


def octave(rank):
    return rank.bit_length() - 1


class Law:
    def __init__(self, pages):
        self.pages = pages
        self.octaves = octave(pages) + 1
        weight = [1 / (1 << octave(r)) for r in range(1, pages + 1)]
        self.all = sum(weight)
        self.share = [w / self.all for w in weight]  # of all steps, by rank

    def ranks(self, o):
        return (1 << o) - 1, min((2 << o) - 1, self.pages)


def written(law, speed, seconds, rng):
    """Pages that were written after they were sent, in a pass that goes through them evenly."""
    return [rng.random() < 1 - math.exp(-s * speed * rng.uniform(0, seconds)) for s in law.share]


def move(law, dirty, order, a, rng):
    """Seconds until all is there, work lost in seconds, and the waits."""
    missing = bytearray(dirty)
    left = [0] * law.octaves
    for rank, is_dirty in enumerate(dirty, 1):
        left[octave(rank)] += is_dirty
    queue = [r for r in order if dirty[r]]
    page_s = PAGE / (a.link * 1e6)
    now = steps = owed = at = waits = 0

    def arrive(r):
        missing[r] = 0
        left[octave(r + 1)] -= 1

    while sum(left):
        mass = [n * law.share[law.ranks(o)[0]] for o, n in enumerate(left)]
        chance = sum(mass)
        run = int(math.log(1 - rng.random()) / math.log(1 - chance)) if chance < 1 else 0
        # Bulk goes on meanwhile, so the chance is reckoned again every 20 pages.
        hit = run / a.speed <= 20 * page_s
        run = run if hit else int(20 * page_s * a.speed)
        now += run / a.speed
        steps += run
        owed += run / a.speed / page_s
        if hit:
            o = rng.choices(range(law.octaves), mass)[0]
            r = rng.randrange(*law.ranks(o))
            while not missing[r]:
                r = rng.randrange(*law.ranks(o))
            arrive(r)
            now += a.wait / 1e6
            owed += a.wait / 1e6 / page_s - 1  # it takes the link as well
            steps += 1
            waits += 1
        while owed >= 1 and at < len(queue):
            if missing[queue[at]]:
                arrive(queue[at])
                owed -= 1
            at += 1
    return now, now - steps / a.speed, waits


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--mib", type=int, default=768)
    p.add_argument("--speed", type=float, default=350000, help="steps per second (350000)")
    p.add_argument("--link", type=float, default=115, help="MB/s (115)")
    p.add_argument("--pass", type=float, default=8.5, dest="seconds", help="s (8.5)")
    p.add_argument("--wait", type=float, default=340, help="us (340)")
    a = p.parse_args()
    if min(a.mib, a.speed, a.link, a.seconds, a.wait) <= 0:
        p.error("each number is to be more than 0")
    rng = random.Random(1)
    law = Law(a.mib << 8)
    dirty = written(law, a.speed, a.seconds, rng)
    print(f"{sum(dirty) / 256:.0f} MiB were written, {sum(dirty) * PAGE / a.link / 1e6:.2f} s of the link")
    shuffled = rng.sample(range(law.pages), law.pages)
    for name, order in (("best order", range(law.pages)), ("any order", shuffled)):
        now, lost, waits = move(law, dirty, order, a, random.Random(2))
        print(f"{name}: all in after {now:.2f} s, lost {lost:.2f} s, {waits} waits of {a.wait:.0f} us")


if __name__ == "__main__":
    main()
