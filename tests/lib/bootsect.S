/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The boot-sector guest: counts in memory, for ever.
 *
 * Real mode to flat 32-bit protected mode. Then every vCPU walks over the pages of [start, end),
 * sets its own 32-bit counter in each, at byte 64 * (APIC id) of the page, to 0, and from then on
 * adds one to each, round by round. 'A' on COM1, once, says that all counters of all vCPUs have
 * been set: before it the pages still hold what the firmware left there. After it the counters of
 * one vCPU form at most one step over the pages at any instant, whatever moment the guest is
 * stopped at. The first vCPU writes 'B' after every 64 rounds; '1' and '0' on COM1 make it set and
 * clear EFER.SVME then, as a hypervisor does.
 *
 * The bytes lie in .rodata of the test program; bootsect.c copies and patches them. They run at
 * 0x7c00, which AT() computes: a difference of labels needs no linker.
 */
#define LOAD 0x7c00
#define AT(label) ((label) - bootsect + LOAD)
#define COM1 0x3f8
#define EFER 0xc0000080
#define APIC_ID 0xfee00020
#define APIC_ICR 0xfee00300
#define ICR_INIT_OTHERS 0x000c4500
#define ICR_STARTUP_OTHERS 0x000c4608 /* vector 8: they start at TRAMPOLINE */
#define TRAMPOLINE 0x8000

        .section .rodata
        .balign 16
        .globl bootsect, bootsect_params
        .hidden bootsect, bootsect_params

        .code16
bootsect:
        cli
        ljmp    $0, $AT(1f)             /* some firmware jumps to 07c0:0000 */
1:      xorw    %ax, %ax
        movw    %ax, %ds
        inb     $0x92, %al              /* A20 */
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        movl    $AT(first), %ebx
        jmp     protect

other16:                                /* the other vCPUs come from TRAMPOLINE */
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movl    $AT(other), %ebx

protect:                                /* to protected mode, and on at ebx */
        lgdtl   AT(gdt_pointer)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $AT(flat)

        .code32
flat:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        jmp     *%ebx

first:                                  /* sets its own counters when the others have set theirs */
        cmpl    $1, AT(n_cpus)
        jbe     walk_first
        movb    $0xea, TRAMPOLINE       /* ljmp $0, $other16 */
        movl    $AT(other16), TRAMPOLINE + 1
        movl    $ICR_INIT_OTHERS, APIC_ICR
        /* The firmware left the others halted. INIT makes them wait for a start-up message; one
         * that comes too early is ignored, and so is one that comes to a running vCPU. */
2:      movl    $ICR_STARTUP_OTHERS, APIC_ICR
        pause
        movl    AT(alive), %eax
        incl    %eax
        cmpl    AT(n_cpus), %eax
        jb      2b
walk_first:
        xorl    %ebx, %ebx
        jmp     walk

other:
        movl    APIC_ID, %ebx
        shrl    $24, %ebx
        shll    $6, %ebx

walk:                                   /* ebx: offset of this vCPU's counter in a page */
        movl    AT(start), %eax
3:      movl    $0, (%eax,%ebx)
        addl    $4096, %eax
        cmpl    AT(end), %eax
        jb      3b
        lock incl AT(alive)             /* its counters start from 0 now */
        testl   %ebx, %ebx
        jnz     5f
        movb    $'A', %al
        movw    $COM1, %dx
        outb    %al, %dx
5:      xorl    %ecx, %ecx
round:
        movl    AT(start), %eax
4:      incl    (%eax,%ebx)
        addl    $4096, %eax
        cmpl    AT(end), %eax
        jb      4b
        incl    %ecx
        testl   $63, %ecx
        jnz     round
        testl   %ebx, %ebx
        jnz     round
        movb    $'B', %al
        movw    $COM1, %dx
        outb    %al, %dx
        movw    $COM1 + 5, %dx          /* has anybody typed? */
        inb     %dx, %al
        testb   $1, %al
        jz      round
        movw    $COM1, %dx
        inb     %dx, %al
        movzbl  %al, %ebp
        andl    $1, %ebp
        shll    $12, %ebp               /* SVME */
        movl    %ecx, %esi
        movl    $EFER, %ecx
        rdmsr
        andl    $~0x1000, %eax
        orl     %ebp, %eax
        wrmsr
        movl    %esi, %ecx
        jmp     round

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff      /* code, 4 GiB from 0 */
        .quad   0x00cf92000000ffff      /* data, the same */
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   AT(gdt)
alive:  .long   0

        .balign 4
bootsect_params:                        /* struct in bootsect.c */
start:  .long   0x100000
end:    .long   0x200000
n_cpus: .long   1

        .org    bootsect + 510
        .word   0xaa55
        .section .note.GNU-stack, "", @progbits
