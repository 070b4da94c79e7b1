// What a preemption can lose, all of it alive: the snippet on which trampolines are tried that are
// wrong on purpose (pushcall/check/mutants.py). Every general register, both halves of every XMM register,
// each arithmetic flag both ways, DF, MXCSR, x87 and the words above RSP hold values that nothing
// else has, at boundaries with RSP at 0 and at 8 modulo 16. It runs through its loop four times, so
// that boundaries are tried in both of the check's ways; in it RSP lies 40 to 64 bytes above a multiple
// of 64 KiB, on the stack that mutants.py gives it, which ends a page above that.

#include "textflag.h"

DATA	probe·mxcsr(SB)/4, $0x5f80	// all exceptions masked, rounds up
GLOBL	probe·mxcsr(SB), RODATA|NOPTR, $4
DATA	probe·fcw(SB)/2, $0x0f7f	// all exceptions masked, 64 bits, rounds to zero
GLOBL	probe·fcw(SB), RODATA|NOPTR, $2
GLOBL	probe·left(SB), NOPTR, $8

// No four bytes of a vector are those of another part, or of another vector.
#define VECTOR(offset, low, high) \
DATA	probe·vectors+offset+0(SB)/8, $low \
DATA	probe·vectors+offset+8(SB)/8, $high
VECTOR(0, 0x1022334455667700, 0x8099aabbccddee00)
VECTOR(16, 0x1122334455667701, 0x8199aabbccddee01)
VECTOR(32, 0x1222334455667702, 0x8299aabbccddee02)
VECTOR(48, 0x1322334455667703, 0x8399aabbccddee03)
VECTOR(64, 0x1422334455667704, 0x8499aabbccddee04)
VECTOR(80, 0x1522334455667705, 0x8599aabbccddee05)
VECTOR(96, 0x1622334455667706, 0x8699aabbccddee06)
VECTOR(112, 0x1722334455667707, 0x8799aabbccddee07)
VECTOR(128, 0x1822334455667708, 0x8899aabbccddee08)
VECTOR(144, 0x1922334455667709, 0x8999aabbccddee09)
VECTOR(160, 0x1a2233445566770a, 0x8a99aabbccddee0a)
VECTOR(176, 0x1b2233445566770b, 0x8b99aabbccddee0b)
VECTOR(192, 0x1c2233445566770c, 0x8c99aabbccddee0c)
VECTOR(208, 0x1d2233445566770d, 0x8d99aabbccddee0d)
VECTOR(224, 0x1e2233445566770e, 0x8e99aabbccddee0e)
VECTOR(240, 0x1f2233445566770f, 0x8f99aabbccddee0f)
GLOBL	probe·vectors(SB), RODATA|NOPTR, $256

TEXT main·main(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$4, probe·left(SB)
	LDMXCSR	probe·mxcsr(SB)
	FLD1
	FLDPI
	FLDCW	probe·fcw(SB)
	MOVUPS	probe·vectors+0(SB), X0
	MOVUPS	probe·vectors+16(SB), X1
	MOVUPS	probe·vectors+32(SB), X2
	MOVUPS	probe·vectors+48(SB), X3
	MOVUPS	probe·vectors+64(SB), X4
	MOVUPS	probe·vectors+80(SB), X5
	MOVUPS	probe·vectors+96(SB), X6
	MOVUPS	probe·vectors+112(SB), X7
	MOVUPS	probe·vectors+128(SB), X8
	MOVUPS	probe·vectors+144(SB), X9
	MOVUPS	probe·vectors+160(SB), X10
	MOVUPS	probe·vectors+176(SB), X11
	MOVUPS	probe·vectors+192(SB), X12
	MOVUPS	probe·vectors+208(SB), X13
	MOVUPS	probe·vectors+224(SB), X14
	MOVUPS	probe·vectors+240(SB), X15
	MOVQ	$0x0101010101010101, AX
	MOVQ	$0x0202020202020202, CX
	MOVQ	$0x0303030303030303, DX
	MOVQ	$0x0404040404040404, BX
	MOVQ	$0x0505050505050505, BP
	MOVQ	$0x0606060606060606, SI
	MOVQ	$0x0707070707070707, DI
	MOVQ	$0x0808080808080808, R8
	MOVQ	$0x0909090909090909, R9
	MOVQ	$0x0a0a0a0a0a0a0a0a, R10
	MOVQ	$0x0b0b0b0b0b0b0b0b, R11
	MOVQ	$0x0c0c0c0c0c0c0c0c, R12
	MOVQ	$0x0d0d0d0d0d0d0d0d, R13
	MOVQ	$0x0e0e0e0e0e0e0e0e, R14
	MOVQ	$0x0f0f0f0f0f0f0f0f, R15
	ADJSP	$(4096-40-64)	// the entry's RSP lies 40 below the end
loop:
	PUSHQ	AX
	PUSHQ	$0xd5	// SF ZF AF PF CF, and bit 1
	POPFQ
	PUSHQ	BX
	PUSHQ	$0x802	// OF
	POPFQ
	PUSHQ	R15
	PUSHQ	$2	// none
	POPFQ
	STD
	NOTQ	AX
	NOTQ	R15
	CLD
	ADDQ	AX, CX	// carries, and then does not
	ADCQ	BX, DX
	POPQ	SI
	POPQ	DI
	POPQ	R12
	PADDQ	X0, X15
	DECQ	probe·left(SB)
	JNE	loop
	ADJSP	$-(4096-40-64)
	RET
