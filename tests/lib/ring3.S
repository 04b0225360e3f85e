/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring-3 guest: a ROM of 64 KiB in place of a firmware, which does without an operating system.
 *
 * Some KVMs run natively only what a guest does in ring 3, and emulate its ring 0 (kvm-pvm: 0.1
 * million instructions a second). So each vCPU goes from the reset vector to long mode in few
 * instructions, enters ring 3, and stays there: no interrupts, no IDT, no I/O. What it finds it
 * writes to its record in memory (Record in ring3.c), which moves with it. A fault of its own is a
 * triple fault: QEMU ends, with -no-reboot.
 *
 * Page I of the memory that it works in holds VALUE(512 I + K) in each of its words K < 256, and
 * VALUE(512 I + 256) in each one above (so half of it can be compressed), but for the counters:
 * vCPU C has the word 8 C. Each vCPU has a second copy of its counters, its shadow. A step takes a
 * page by chance, checks its counter and two more words, and adds one to counter and shadow, in
 * this order. After each 16 steps the vCPU checks all of the next page: the sweep. After a sweep
 * over all pages it checks its SSE registers, which hold VALUE(16 C + number). VALUE(X) is Y ^ Y
 * >> 32 of Y = (X + 1) * GOLDEN.
 *
 * The bytes lie in .rodata of the test program; ring3.c copies and patches them. They run at
 * 0xf0000, which AT() computes: a difference of labels needs no linker.
 *
 * The guest's memory:  0x1000 page tables (PML4, page directory pointers, page directory: 1 GiB)
 *                      0x8000 where the other vCPUs start    0x9000 the records, 512 bytes each
 *                      0xa000 the stacks         0xb000 how many have filled their pages
 *                      0x10000 each vCPU's histogram of waits, 8 KiB each (tests/guest/durations.h)
 *                      0x100000 shadows          then the pages
 */
#define ROM 0xf0000
#define OFFSET(label) ((label) - ring3_rom)
#define AT(label) (OFFSET(label) + ROM)

#define PML4 0x1000
#define POINTERS 0x2000
#define DIRECTORY 0x3000
#define TRAMPOLINE 0x8000
#define RECORDS 0x9000
#define RECORD_SHIFT 9
#define STACKS 0xa000
#define FILLED 0xb000
#define STARTED 0xb008 /* a byte for each vCPU */
#define WAITS 0x10000
#define SHADOWS 0x100000

#define LAST_BUCKET (22 * 64 - 1) /* of Durations */

#define APIC_ID 0xfee00020
#define APIC_ICR 0xfee00300
#define APIC_ICR_TO 0xfee00310
#define ICR_INIT 0x00004500
#define ICR_STARTUP 0x00004608 /* vector 8: TRAMPOLINE */
#define EFER 0xc0000080

/* Selectors. */
#define CODE32 0x08
#define DATA 0x10
#define CODE64 0x18
#define USER_DATA 0x23
#define USER_CODE 0x2b

#define STEPS 16 /* for each page of the sweep */
#define GOLDEN 0x9e3779b97f4a7c15

/* Offsets in a record. */
#define STATE 0
#define OPS 8
#define SWEEPS 16
#define SWEPT 24 /* pages of the sweep that is under way */
#define CORRUPT 32
#define WORST 40
#define SUM 48
#define ABOVE 56 /* 4 counts */
#define FINDINGS 96 /* 4 of {kind, page, found, expected} */

/* Kinds of findings. */
#define STEP 1
#define SWEEP 2
#define REGISTER 3

        .section .rodata
        .balign 16
        .globl ring3_rom, ring3_params
        .hidden ring3_rom, ring3_params

        .code16
ring3_rom:                              /* each vCPU, by the reset vector or TRAMPOLINE */
        cli
        lgdtl   %cs:OFFSET(gdt_pointer)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $CODE32, $AT(flat)

        .code32
flat:
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    APIC_ID, %ebx
        shrl    $24, %ebx               /* which vCPU this is */
        jnz     started

        /* The first one: page tables, of user pages of 2 MiB, whose address is that in memory. */
        movl    $POINTERS + 7, PML4
        movl    $DIRECTORY + 7, POINTERS
        movl    $DIRECTORY, %edi
        movl    $0x87, %eax
        movl    AT(n_tables), %ecx
1:      movl    %eax, (%edi)
        addl    $8, %edi
        addl    $2 << 20, %eax
        loop    1b

        /* Then the other vCPUs. One that runs already ignores a start-up message, and one that has
         * not seen INIT yet as well. */
        movb    $0xea, TRAMPOLINE       /* ljmp $0xf000, $0 */
        movl    $ROM << 12, TRAMPOLINE + 1
        movl    $1, %ecx
2:      cmpl    AT(n_cpus), %ecx
        jae     long_mode
        movl    %ecx, %eax
        shll    $24, %eax
        movl    %eax, APIC_ICR_TO
        movl    $ICR_INIT, APIC_ICR
3:      movl    $ICR_STARTUP, APIC_ICR
        pause
        cmpb    $0, STARTED(%ecx)
        je      3b
        incl    %ecx
        jmp     2b

started:
        movb    $1, STARTED(%ebx)
long_mode:
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            /* PAE, SSE */
        movl    %eax, %cr4
        movl    $EFER, %ecx
        rdmsr
        orl     $0x100, %eax            /* long mode */
        wrmsr
        movl    $0x80000013, %eax       /* paging; caches on */
        movl    %eax, %cr0
        ljmpl   $CODE64, $AT(wide)

        .code64
wide:
        leal    1(%rbx), %esp
        shll    $8, %esp
        addl    $STACKS, %esp
        movq    %rsp, %rax
        pushq   $USER_DATA
        pushq   %rax
        pushq   $2
        pushq   $USER_CODE
        pushq   $AT(user)
        iretq

/*
 * Ring 3. rbx: state of the random numbers. rbp: the record. rdi: GOLDEN. r12: the first page.
 * r13: how many there are. r14: the shadow. r15: offset of the counter in a page. esi is a page's
 * number, and r8 its address.
 */
        .macro  value                   /* rax = VALUE(rax); rdx is lost */
        incq    %rax
        imulq   %rdi, %rax
        movq    %rax, %rdx
        shrq    $32, %rdx
        xorq    %rdx, %rax
        .endm

        .macro  find_page
        movl    %esi, %r8d
        shll    $12, %r8d
        addl    %r12d, %r8d
        .endm

        .macro  wait_begins             /* rax, rdx and r10 are lost */
        rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        movq    %rax, %r10
        .endm

        .macro  wait_ends               /* rax, rdx, rcx and r9 are lost */
        rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        subq    %r10, %rax              /* how long it has waited, at most */
        cmpq    AT(least), %rax
        jb      9f
        call    waited
9:
        .endm

user:
        movl    %ebx, %r15d
        shll    $6, %r15d
        movl    %ebx, %ebp
        shll    $RECORD_SHIFT, %ebp
        addl    $RECORDS, %ebp
        movl    AT(shadow_size), %r14d
        imull   %ebx, %r14d
        addl    $SHADOWS, %r14d
        movl    AT(start), %r12d
        movl    AT(n_pages), %r13d
        movabsq $GOLDEN, %rdi

        movl    %ebx, %esi              /* its share of the pages; memory was zero */
4:      cmpl    %r13d, %esi
        jae     7f
        find_page
        xorl    %ecx, %ecx
5:      call    expected
        movq    %rax, (%r8,%rcx,8)
        incl    %ecx
        cmpl    $512, %ecx
        jb      5b
        movl    AT(n_cpus), %ecx
6:      decl    %ecx
        movl    %ecx, %eax
        shll    $6, %eax
        movq    $0, (%r8,%rax)
        testl   %ecx, %ecx
        jnz     6b
        addl    AT(n_cpus), %esi
        jmp     4b
7:      lock incl FILLED
8:      pause
        movl    FILLED, %eax
        cmpl    AT(n_cpus), %eax
        jb      8b

        shll    $4, %ebx
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7
        leal    \n(%rbx), %eax
        value
        movq    %rax, %xmm\n
        .endr
        movq    $1, STATE(%rbp)
        incl    %ebx                    /* not 0 */

work:
        movl    $STEPS, %r11d
step:
        movq    %rbx, %rax              /* xorshift64 */
        shlq    $13, %rax
        xorq    %rax, %rbx
        movq    %rbx, %rax
        shrq    $7, %rax
        xorq    %rax, %rbx
        movq    %rbx, %rax
        shlq    $17, %rax
        xorq    %rax, %rbx
        movl    AT(n_hot), %ecx         /* 63 of 64 steps go there */
        testl   $63, %ebx
        jz      1f
        testl   %ecx, %ecx
        jnz     2f
1:      movl    %r13d, %ecx
2:      movq    %rbx, %rax
        mulq    %rcx
        movl    %edx, %esi
        find_page

        wait_begins
        movl    (%r14,%rsi,4), %r9d
        movq    (%r8,%r15), %rax
        movl    %r15d, %edx             /* 256 * 8 C of 64 C */
        shll    $5, %edx
        orl     $STEP, %edx
        cmpq    %r9, %rax
        je      3f
        call    report
3:      movl    $5, %ecx
        call    check
        movl    $511, %ecx
        call    check
        movl    (%r14,%rsi,4), %r9d
        incl    %r9d
        movq    %r9, (%r8,%r15)
        movl    %r9d, (%r14,%rsi,4)
        incq    OPS(%rbp)
        wait_ends
        movl    AT(pauses), %ecx
        jrcxz   7f
6:      pause
        loop    6b
7:      decl    %r11d
        jnz     step

        movl    SWEPT(%rbp), %esi       /* the sweep: a page */
        find_page
        wait_begins
        testb   $0, (%r8)
        wait_ends
        xorl    %ecx, %ecx
1:      testl   $7, %ecx
        jnz     2f
        movl    %ecx, %eax
        shrl    $3, %eax
        cmpl    AT(n_cpus), %eax
        jb      3f                      /* a counter */
2:      call    expected
        cmpq    (%r8,%rcx,8), %rax
        jne     4f
3:      incl    %ecx
        cmpl    $512, %ecx
        jb      1b
        movl    (%r14,%rsi,4), %r9d
        movq    (%r8,%r15), %rax
        cmpq    %r9, %rax
        je      6f
        movl    %r15d, %ecx
        shrl    $3, %ecx
        jmp     5f
4:      movq    %rax, %r9
        movq    (%r8,%rcx,8), %rax
5:      movl    %ecx, %edx
        shll    $8, %edx
        orl     $SWEEP, %edx
        call    report
6:      incl    %esi
        cmpl    %r13d, %esi
        jb      7f
        call    check_registers
        incq    SWEEPS(%rbp)
        xorl    %esi, %esi
7:      movq    %rsi, SWEPT(%rbp)
        jmp     work

waited:                                 /* rax: so long; at least 32 us. rax, rdx, rcx, r9 are lost */
        addq    %rax, SUM(%rbp)
        cmpq    WORST(%rbp), %rax
        jbe     1f
        movq    %rax, WORST(%rbp)
1:      .irp    n, 0, 8, 16, 24
        cmpq    AT(limits) + \n, %rax
        jb      2f
        incq    ABOVE + \n(%rbp)
        .endr
2:      mulq    AT(parts)               /* durations_bucket() */
        shrdq   $32, %rdx, %rax         /* parts: 64 of a microsecond */
        bsrq    %rax, %rcx
        subl    $6, %ecx                /* the power of two of microseconds */
        leal    -5(%rcx), %edx
        shll    $6, %edx
        shrq    %cl, %rax
        andl    $63, %eax
        addl    %edx, %eax
        movl    $LAST_BUCKET, %edx
        cmpl    %edx, %eax
        cmoval  %edx, %eax
        movl    %r15d, %r9d             /* 8 KiB times C of 64 C */
        shll    $7, %r9d
        incl    WAITS(%r9,%rax,4)
        ret

expected:                               /* rax: what word ecx of page esi holds; rdx is lost */
        movl    $256, %edx
        cmpl    %edx, %ecx
        cmovbl  %ecx, %edx
        movl    %esi, %eax
        shlq    $9, %rax
        addq    %rdx, %rax
        value
        ret

check:                                  /* word ecx of page esi, in a step */
        call    expected
        cmpq    (%r8,%rcx,8), %rax
        jne     1f
        ret
1:      movq    %rax, %r9
        movq    (%r8,%rcx,8), %rax
        movl    %ecx, %edx
        shll    $8, %edx
        orl     $STEP, %edx             /* goes on to report */

report:                                 /* edx: 256 times the word, + kind. esi: the page. rax: what
                                         * it holds. r9: what it should. */
        pushq   %rcx
        movq    CORRUPT(%rbp), %rcx
        cmpq    $4, %rcx
        jae     1f
        shll    $5, %ecx
        addl    %ebp, %ecx
        movq    %rdx, FINDINGS(%rcx)
        movq    %rsi, FINDINGS + 8(%rcx)
        movq    %rax, FINDINGS + 16(%rcx)
        movq    %r9, FINDINGS + 24(%rcx)
1:      incq    CORRUPT(%rbp)           /* last: who reads it finds what it counts */
        popq    %rcx
        ret

check_registers:                        /* their number is reported as the page */
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7
        movl    $\n, %esi
        movl    %r15d, %eax             /* 16 C of 64 C */
        shrl    $2, %eax
        addl    %esi, %eax
        value
        movq    %rax, %r9
        movq    %xmm\n, %rax
        movl    $REGISTER, %edx
        cmpq    %r9, %rax
        je      1f
        call    report
1:
        .endr
        ret

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      /* accessed already: nobody can write here */
        .quad   0x00cf93000000ffff
        .quad   0x00af9b000000ffff
        .quad   0x00cff3000000ffff
        .quad   0x00affb000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   AT(gdt)

        .org    ring3_rom + 0xff00
ring3_params:                           /* struct in ring3.c */
start:  .long   0
n_pages: .long  0
n_cpus: .long   0
n_hot:  .long   0
pauses: .long   0
shadow_size: .long 0                    /* bytes */
n_tables: .long 0                       /* of 2 MiB */
        .long   0
limits: .quad   0, 0, 0, 0              /* of a wait, in ticks */
least:  .quad   0                       /* the shortest wait, in ticks */
parts:  .quad   0                       /* of 64 in a microsecond, in a tick, times 2^32 */

        .org    ring3_rom + 0xfff0
        .code16
        ljmp    $ROM >> 4, $0
        .org    ring3_rom + 0x10000
        .section .note.GNU-stack, "", @progbits
