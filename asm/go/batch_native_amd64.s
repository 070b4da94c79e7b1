// The exhaustive check on the real processor: takes recorded boundaries one after the other,
// preempts each through the trampoline and compares what lands, without stopping while all is well.
//
// What it works on is pushcall/check/batch_hooks.py's block of words, batch·words, and the frames of
// emulator/frames.py. The snippet's code is not there: every byte of it is an invalid instruction,
// but where the boundary's instruction was stands CALL batch·landed. So the landing PC is what CALL
// pushed, less its five bytes. DF is clear wherever this code runs.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"

// A frame: a block of registers as in emulator/registers.py, and behind it
#define RAX_ 0
#define RCX_ 8
#define RDX_ 16
#define RBX_ 24
#define RSP_ 32
#define RBP_ 40
#define RSI_ 48
#define RDI_ 56
#define R8_ 64
#define R9_ 72
#define R10_ 80
#define R11_ 88
#define R12_ 96
#define R13_ 104
#define R14_ 112
#define R15_ 120
#define RIP_ 128
#define RFLAGS_ 136
#define MXCSR_ 160
#define XMM_ 304
#define NEXT 560
#define WORDS 568
#define POISON 576
#define EXTENDED 592
#define WINDOW 608
#define BLOCK_SIZE 560

#define USER_FLAGS 0x202	// IF and the bit that is always set

#define CALL_SIZE 5
#define NO_INSTRUCTION 0x06
#define ARITHMETIC_FLAGS 0x8d5

// An image of the extended state is an XSAVE area, and behind it that of its complement.
#define IMAGE 2688
#define LEGACY 576

// Words of the block.
#define FRAME batch·words+0(SB)
#define DEAD batch·words+40(SB)
#define BASE batch·words+56(SB)
#define SCRATCH batch·words+64(SB)
#define CACHE batch·words+72(SB)
#define AREA batch·words+80(SB)
#define CHANGED batch·words+88(SB)
#define LAST_RSP batch·words+96(SB)
#define LAST_WORDS batch·words+104(SB)
#define CAUGHT batch·words+112(SB)
#define FEATURES batch·words+120(SB)
#define LAST_EXTENDED batch·words+128(SB)
#define INITIAL batch·words+136(SB)
#define LANDED batch·words+144(SB)

GLOBL	batch·state(SB), NOPTR, $BLOCK_SIZE	// the registers at the landing
GLOBL	batch·stack(SB), NOPTR, $256	// for PUSHFQ, POPFQ and CALL of our own
#define STACK_SIZE 256

#define EACH_XMM(DO) \
	DO(X0, 304) \
	DO(X1, 320) \
	DO(X2, 336) \
	DO(X3, 352) \
	DO(X4, 368) \
	DO(X5, 384) \
	DO(X6, 400) \
	DO(X7, 416) \
	DO(X8, 432) \
	DO(X9, 448) \
	DO(X10, 464) \
	DO(X11, 480) \
	DO(X12, 496) \
	DO(X13, 512) \
	DO(X14, 528)

#define EACH_GENERAL(DO) \
	DO(CX, RCX_) \
	DO(DX, RDX_) \
	DO(BX, RBX_) \
	DO(BP, RBP_) \
	DO(SI, RSI_) \
	DO(DI, RDI_) \
	DO(R8, R8_) \
	DO(R9, R9_) \
	DO(R10, R10_) \
	DO(R11, R11_) \
	DO(R12, R12_) \
	DO(R13, R13_) \
	DO(R14, R14_)

#define LOAD_XMM(reg, offset) \
	MOVUPS	offset(R15), reg
#define STORE_XMM(reg, offset) \
	MOVUPS	reg, batch·state+offset(SB)
#define COMPARE_XMM(reg, offset) \
	PXOR	offset(R15), reg
#define POISON_XMM(reg, offset) \
	MOVUPS	offset(R15), reg \
	PXOR	X15, reg
#define LOAD(reg, offset) \
	MOVQ	offset(R15), reg
#define STORE(reg, offset) \
	MOVQ	reg, batch·state+offset(SB)
#define COMPARE(reg, offset) \
	XORQ	offset(R15), reg \
	ORQ	reg, AX
// Frames are not in the order in which they lie: the one behind the next is asked for early.
#define PREFETCH_LINES(offset) \
	PREFETCHT0	offset+0(R9) \
	PREFETCHT0	offset+64(R9) \
	PREFETCHT0	offset+128(R9) \
	PREFETCHT0	offset+192(R9)

// The arithmetic flags of AX, faster than POPFQ.
#define ARITHMETIC \
	MOVQ	AX, CX \
	SHRQ	$11, CX \
	SHLQ	$8, AX \
	ANDL	$1, CX \
	ADDB	$0x7f, CX \	// OF
	SAHF

TEXT batch·start(SB), NOSPLIT|NOFRAME, $0
	MOVQ	FRAME, R15
	JMP	batch·set(SB)

// The next frame; what this one left in its place is overwritten there.
TEXT batch·next(SB), NOSPLIT|NOFRAME, $0
	MOVQ	FRAME, R15
	MOVQ	NEXT(R15), R15
	MOVQ	R15, FRAME
	TESTQ	R15, R15
	JNE	set
	CALL	batch·clean(SB)
	MOVQ	CAUGHT, AX
	CALL	batch·release(SB)
	CMPQ	LAST_EXTENDED, $0
	JEQ	done
	MOVQ	INITIAL, DI
	CALL	batch·restore(SB)
done:
	CALL	batch·done(SB)	// a gate; does not return
set:
	JMP	batch·set(SB)

// R15 is a frame: brings memory to what it was at its boundary, and preempts there.
TEXT batch·set(SB), NOSPLIT|NOFRAME, $0
	MOVQ	RIP_(R15), BX
	MOVQ	CAUGHT, AX
	CMPQ	AX, BX
	JEQ	caught
	CALL	batch·release(SB)
	MOVB	$0xe8, (BX)	// CALL
	LEAQ	batch·landed(SB), CX
	SUBQ	BX, CX
	SUBQ	$CALL_SIZE, CX
	MOVL	CX, 1(BX)
	MOVQ	BX, CAUGHT
caught:
	MOVQ	RSP_(R15), SI
	MOVQ	WORDS(R15), DX
	CMPQ	SI, LAST_RSP
	JNE	place
	CMPQ	DX, LAST_WORDS
	JEQ	placed
place:
	CALL	batch·clean(SB)
	MOVQ	RSP_(R15), SI
	MOVQ	WORDS(R15), DX
	MOVQ	SI, LAST_RSP
	MOVQ	DX, LAST_WORDS
	CALL	batch·look(SB)
placed:
	MOVQ	NEXT(R15), R9
	TESTQ	R9, R9
	JEQ	fetched
	MOVQ	NEXT(R9), R9
	PREFETCH_LINES(0)
	PREFETCH_LINES(256)
	PREFETCH_LINES(512)
	PREFETCH_LINES(768)
	PREFETCHT0	1024(R9)
	PREFETCHT0	1088(R9)
fetched:
	MOVQ	POISON(R15), X0
	PUNPCKLQDQ	X0, X0
	MOVQ	DEAD, CX
	MOVQ	SI, DI
	SHLQ	$3, CX
	SUBQ	CX, DI
dead:
	MOVUPS	X0, 0(DI)
	MOVUPS	X0, 16(DI)
	MOVUPS	X0, 32(DI)
	MOVUPS	X0, 48(DI)
	ADDQ	$64, DI
	CMPQ	DI, SI
	JB	dead
	// DI is RSP. The window: words by twos, then the odd one.
	LEAQ	WINDOW(R15)(DX*8), R8
	LEAQ	(DI)(DX*8), DI
	SHLQ	$3, DX
	JEQ	area
	NEGQ	DX
	TESTQ	$8, DX
	JEQ	twos
	MOVQ	(R8)(DX*1), AX
	MOVQ	AX, (DI)(DX*1)
	ADDQ	$8, DX
	JEQ	area
twos:
	MOVUPS	(R8)(DX*1), X1
	MOVUPS	X1, (DI)(DX*1)
	ADDQ	$16, DX
	JNE	twos
area:
#ifdef go1_26
	MOVQ	SCRATCH, DI
	MOVQ	AREA, CX
	MOVQ	POISON(R15), AX
	REP; STOSQ
#endif
	MOVQ	EXTENDED(R15), DI
	MOVQ	DI, AX
	ORQ	LAST_EXTENDED, AX
	JEQ	narrow
	CALL	batch·widen(SB)
narrow:
	LDMXCSR	MXCSR_(R15)
	EACH_XMM(LOAD_XMM)
	MOVUPS	544(R15), X15
	MOVQ	RSP_(R15), SP
	MOVQ	RFLAGS_(R15), AX
	MOVQ	AX, CX
	ANDQ	$~ARITHMETIC_FLAGS, CX
	CMPQ	CX, $USER_FLAGS
	JNE	all
	ARITHMETIC
	JMP	flags
all:
	PUSHQ	AX
	POPFQ
flags:
	PUSHQ	RIP_(R15)
	MOVQ	RAX_(R15), AX
	EACH_GENERAL(LOAD)
	MOVQ	R15_(R15), R15
	JMP	runtime·asyncPreempt(SB)

// Where the snippet's code would go on.
TEXT batch·landed(SB), NOSPLIT|NOFRAME, $0
	MOVQ	SP, batch·state+RSP_(SB)
	LEAQ	batch·stack+STACK_SIZE(SB), SP
	PUSHFQ
	CLD
	MOVQ	R15, batch·state+R15_(SB)
	MOVQ	FRAME, R15
	MOVQ	AX, batch·state+RAX_(SB)
	EACH_GENERAL(STORE)
	EACH_XMM(STORE_XMM)
	MOVUPS	X15, batch·state+544(SB)
	STMXCSR	batch·state+MXCSR_(SB)
	XORQ	RAX_(R15), AX
	EACH_GENERAL(COMPARE)
	MOVQ	batch·state+R15_(SB), CX
	COMPARE(CX, R15_)
	POPQ	CX
	MOVQ	CX, batch·state+RFLAGS_(SB)
	COMPARE(CX, RFLAGS_)
	MOVQ	batch·state+RSP_(SB), SI
	MOVQ	(SI), CX
	SUBQ	$CALL_SIZE, CX
	MOVQ	CX, batch·state+RIP_(SB)
	COMPARE(CX, RIP_)
	ADDQ	$8, SI	// the PC that CALL pushed
	MOVQ	SI, batch·state+RSP_(SB)
	MOVQ	SI, CX
	COMPARE(CX, RSP_)
	MOVL	batch·state+MXCSR_(SB), CX
	XORL	MXCSR_(R15), CX
	ORQ	CX, AX
	EACH_XMM(COMPARE_XMM)
	PXOR	544(R15), X15
	POR	X1, X0
	POR	X3, X2
	POR	X5, X4
	POR	X7, X6
	POR	X9, X8
	POR	X11, X10
	POR	X13, X12
	POR	X15, X14
	POR	X2, X0
	POR	X6, X4
	POR	X10, X8
	POR	X14, X12
	POR	X4, X0
	POR	X12, X8
	POR	X8, X0
	TESTQ	AX, AX
	JNE	lost	// RSP may be anything: nothing is read there
	MOVQ	WORDS(R15), DX
	LEAQ	WINDOW(R15)(DX*8), R8
	LEAQ	(SI)(DX*8), SI
	SHLQ	$3, DX
	JEQ	vectors
	NEGQ	DX
	TESTQ	$8, DX
	JEQ	twos
	MOVQ	(R8)(DX*1), AX
	CMPQ	AX, (SI)(DX*1)
	JNE	lost
	ADDQ	$8, DX
	JEQ	vectors
twos:
	MOVUPS	(R8)(DX*1), X1
	MOVUPS	(SI)(DX*1), X2
	PXOR	X1, X2
	POR	X2, X0
	ADDQ	$16, DX
	JNE	twos
vectors:
	PXOR	X1, X1
	PCMPEQB	X1, X0
	PMOVMSKB	X0, AX
	CMPL	AX, $0xffff
	JNE	lost
	MOVQ	EXTENDED(R15), DI
	TESTQ	DI, DI
	JEQ	next
	CALL	batch·compare(SB)
	TESTQ	AX, AX
	JNE	lost
next:
	JMP	batch·next(SB)
lost:
	MOVQ	EXTENDED(R15), DI
	TESTQ	DI, DI
	JEQ	tell
	CALL	batch·compare(SB)	// Python looks at what it stores
tell:
	CALL	batch·lost(SB)	// a gate; Python has noted the loss when it returns
	JMP	batch·next(SB)

// In place of asyncPreempt2: everything that it may overwrite becomes the complement of what it
// was at the boundary, so that nothing hides behind an equal value. SP and BP are kept; since 1.26
// R14 is g.
TEXT runtime·asyncPreempt2(SB), NOSPLIT|NOFRAME, $0
#ifdef go1_26
	// xRegSave and xRegRestore: the block that p.xRegs.cache names keeps the vectors.
	CLD
	MOVQ	SCRATCH, SI
	MOVQ	CACHE, DI
	MOVQ	AREA, CX
	REP; MOVSQ
	MOVQ	FRAME, R15
	MOVQ	POISON(R15), AX
	MOVQ	SCRATCH, DI
	MOVQ	AREA, CX
	REP; STOSQ
#endif
	MOVQ	FRAME, R15
	MOVQ	EXTENDED(R15), DI
	TESTQ	DI, DI
	JEQ	narrow
	ADDQ	$IMAGE, DI
	STMXCSR	batch·state+MXCSR_(SB)	// XRSTOR loads it with AVX (SDM volume 1, 13.8.1)
	CALL	batch·restore(SB)
	LDMXCSR	batch·state+MXCSR_(SB)
narrow:
	PCMPEQL	X15, X15
	EACH_XMM(POISON_XMM)
	PXOR	544(R15), X15
	MOVQ	RFLAGS_(R15), AX
	NOTQ	AX
	ARITHMETIC	// the others stay
#define POISONED(reg, offset) \
	MOVQ	offset(R15), reg \
	NOTQ	reg
	POISONED(AX, RAX_)
	POISONED(CX, RCX_)
	POISONED(DX, RDX_)
	POISONED(BX, RBX_)
	POISONED(SI, RSI_)
	POISONED(DI, RDI_)
	POISONED(R8, R8_)
	POISONED(R9, R9_)
	POISONED(R10, R10_)
	POISONED(R11, R11_)
	POISONED(R12, R12_)
	POISONED(R13, R13_)
#ifdef go1_26
	get_tls(R14)
	MOVQ	g(R14), R14
#else
	POISONED(R14, R14_)
#endif
	POISONED(R15, R15_)
	RET

// Takes back the CALL at AX, if there is one.
TEXT batch·release(SB), NOSPLIT|NOFRAME, $0
	TESTQ	AX, AX
	JEQ	none
	MOVL	$(NO_INSTRUCTION * 0x01010101), (AX)
	MOVB	$NO_INSTRUCTION, 4(AX)
none:
	MOVQ	$0, CAUGHT
	RET

// Makes the place of the last frame, and p.xRegs.scratch, what they are without one.
TEXT batch·clean(SB), NOSPLIT|NOFRAME, $0
	MOVQ	LAST_RSP, DI
	TESTQ	DI, DI
	JEQ	none
	MOVQ	DEAD, CX
	LEAQ	(CX*8), AX
	SUBQ	AX, DI
	ADDQ	LAST_WORDS, CX
	MOVQ	BASE, AX
	REP; STOSQ
#ifdef go1_26
	MOVQ	SCRATCH, DI
	MOVQ	AREA, CX
	REP; STOSQ
#endif
none:
	MOVQ	$0, LAST_RSP
	RET

// Sees that nothing was written to the place at SI, with DX words above it.
TEXT batch·look(SB), NOSPLIT|NOFRAME, $0
	MOVQ	BASE, AX
	MOVQ	AX, X0
	PUNPCKLQDQ	X0, X0
	PXOR	X2, X2
	MOVQ	DEAD, CX
	SHLQ	$3, CX
	MOVQ	SI, DI
	SUBQ	CX, DI
	LEAQ	(SI)(DX*8), R8
	SUBQ	DI, R8	// bytes
twos:
	CMPQ	R8, $16
	JB	last
	MOVUPS	(DI), X1
	PXOR	X0, X1
	POR	X1, X2
	ADDQ	$16, DI
	SUBQ	$16, R8
	JMP	twos
last:
	TESTQ	R8, R8
	JEQ	found
	CMPQ	AX, (DI)
	JNE	changed
found:
	PXOR	X1, X1
	PCMPEQB	X1, X2
	PMOVMSKB	X2, AX
	CMPL	AX, $0xffff
	JEQ	same
changed:
	MOVQ	$1, CHANGED
same:
	RET

// Loads what AVX adds from the image at DI; 0 means that nothing of it is in use, as it must still
// be where it was so before.
TEXT batch·widen(SB), NOSPLIT|NOFRAME, $0
	CMPQ	LAST_EXTENDED, $0
	JNE	used
	MOVQ	DI, BX
	MOVQ	INITIAL, DI
	CALL	batch·compare(SB)
	MOVQ	BX, DI
	TESTQ	AX, AX
	JEQ	used
	MOVQ	$1, CHANGED
used:
	MOVQ	DI, LAST_EXTENDED
	TESTQ	DI, DI
	JNE	load
	MOVQ	INITIAL, DI
load:
	JMP	batch·restore(SB)

TEXT batch·restore(SB), NOSPLIT|NOFRAME, $0
	MOVQ	FEATURES, AX
	XORL	DX, DX
	XRSTOR64	(DI)
	RET

// Stores what AVX adds in the area at LANDED; AX is not 0 where it differs from the image at DI.
TEXT batch·compare(SB), NOSPLIT|NOFRAME, $0
	MOVQ	LANDED, SI
	MOVQ	FEATURES, AX
	XORL	DX, DX
	XSAVE64	(SI)
	ADDQ	$LEGACY, SI
	ADDQ	$LEGACY, DI
	MOVL	$((IMAGE - LEGACY) / 8), CX
	XORL	AX, AX	// ZF for a count of 0
	REP; CMPSQ
	JEQ	same
	INCL	AX
same:
	RET
