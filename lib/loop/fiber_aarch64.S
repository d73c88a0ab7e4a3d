/* fiber_aarch64.S — the fiber switch on aarch64 (AAPCS64 section 6.1: x19–x28, fp, lr, sp and d8–d15 are callee-saved).
 *
 *	void hark__switch(void **save, void *to);
 */
	.text
	.globl	hark__switch
	.hidden	hark__switch
	.type	hark__switch, %function
	.p2align 4
hark__switch:
	.cfi_startproc
	sub	sp, sp, #160
	stp	x19, x20, [sp, #0]
	stp	x21, x22, [sp, #16]
	stp	x23, x24, [sp, #32]
	stp	x25, x26, [sp, #48]
	stp	x27, x28, [sp, #64]
	stp	x29, x30, [sp, #80]
	stp	d8, d9, [sp, #96]
	stp	d10, d11, [sp, #112]
	stp	d12, d13, [sp, #128]
	stp	d14, d15, [sp, #144]
	mov	x9, sp
	str	x9, [x0]
	mov	sp, x1
	ldp	x19, x20, [sp, #0]
	ldp	x21, x22, [sp, #16]
	ldp	x23, x24, [sp, #32]
	ldp	x25, x26, [sp, #48]
	ldp	x27, x28, [sp, #64]
	ldp	x29, x30, [sp, #80]
	ldp	d8, d9, [sp, #96]
	ldp	d10, d11, [sp, #112]
	ldp	d12, d13, [sp, #128]
	ldp	d14, d15, [sp, #144]
	add	sp, sp, #160
	ret
	.cfi_endproc
	.size	hark__switch, .-hark__switch

/* A new fiber begins here: its function is in x19; a zero frame and link register end every backtrace. */
	.globl	hark__switch_entry
	.hidden	hark__switch_entry
	.type	hark__switch_entry, %function
	.p2align 4
hark__switch_entry:
	.cfi_startproc
	.cfi_undefined x30
	mov	x29, xzr
	mov	x30, xzr
	blr	x19
	brk	#0
	.cfi_endproc
	.size	hark__switch_entry, .-hark__switch_entry

	.section .note.GNU-stack, "", %progbits
