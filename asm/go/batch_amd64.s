// The exhaustive check inside the machine: takes recorded boundaries one after the other, preempts
// each through the trampoline and compares, with no word to Python while all is well.
//
// A frame is a register block (emulator/registers.py: LAYOUT), then
//   560  number of words in its stack window
//   568  address of the next frame, 0 for none
//   576  the window: the stack from RSP upwards
// The snippet's code is not there: where the boundary's instruction was stands CALL batch·landed,
// everything else faults. So the landing PC is what CALL pushed, less its five bytes.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"

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
#define WORDS_ 560
#define NEXT_ 568
#define WINDOW_ 576

#define CALL_SIZE 5
#define ARITHMETIC_FLAGS 0x8d5	// CF PF AF ZF SF OF
#define POISON 0xdbdbdbdbdbdbdbdb
#define DEAD_STACK 1024	// bytes below RSP that are overwritten before each preemption

GLOBL	batch·frame(SB), NOPTR, $8	// the frame that is being tried
GLOBL	batch·state(SB), NOPTR, $560	// the registers at the landing
GLOBL	batch·flags(SB), NOPTR, $16
GLOBL	batch·stack(SB), NOPTR, $64	// for PUSHFQ and POPFQ of our own

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

#define LOAD_XMM(reg, offset) \
	MOVUPS	offset(R15), reg
#define STORE_XMM(reg, offset) \
	MOVUPS	reg, batch·state+offset(SB)
#define POISON_XMM(reg, offset) \
	MOVUPS	offset(R15), reg \
	PXOR	X15, reg

#define DIFFER(offset) \
	MOVUPS	offset(R15), X0 \
	MOVUPS	batch·state+offset(SB), X1 \
	PXOR	X1, X0 \
	POR	X0, X2

// Begins with batch·frame; ends in the gate batch·done, or in batch·lost with batch·frame being the
// frame that lost something. Either way it goes on at batch·next.
TEXT batch·start(SB), NOSPLIT|NOFRAME, $0
	MOVQ	batch·frame(SB), R15
	TESTQ	R15, R15
	JEQ	done
try:
	CLD
	MOVQ	RSP_(R15), DI
	LEAQ	WINDOW_(R15), SI
	MOVQ	WORDS_(R15), CX
	REP
	MOVSQ
	// The goroutine's registers, with the call of asyncPreempt pushed.
	STMXCSR	batch·state+MXCSR_(SB)
	MOVL	batch·state+MXCSR_(SB), AX
	CMPL	AX, MXCSR_(R15)
	JEQ	loaded
	LDMXCSR	MXCSR_(R15)
loaded:
	EACH_XMM(LOAD_XMM)
	LOAD_XMM(X15, 544)
	MOVQ	RSP_(R15), SP
	PUSHQ	RFLAGS_(R15)
	POPFQ
	PUSHQ	RIP_(R15)
	MOVQ	RAX_(R15), AX
	MOVQ	RCX_(R15), CX
	MOVQ	RDX_(R15), DX
	MOVQ	RBX_(R15), BX
	MOVQ	RBP_(R15), BP
	MOVQ	RSI_(R15), SI
	MOVQ	RDI_(R15), DI
	MOVQ	R8_(R15), R8
	MOVQ	R9_(R15), R9
	MOVQ	R10_(R15), R10
	MOVQ	R11_(R15), R11
	MOVQ	R12_(R15), R12
	MOVQ	R13_(R15), R13
	MOVQ	R14_(R15), R14
	MOVQ	R15_(R15), R15
	JMP	runtime·asyncPreempt(SB)
done:
	CALL	batch·done(SB)	// does not return

// Where the snippet's code would go on.
TEXT batch·landed(SB), NOSPLIT|NOFRAME, $0
	MOVQ	SP, batch·state+RSP_(SB)
	MOVQ	R15, batch·state+R15_(SB)
	LEAQ	batch·stack+64(SB), SP
	PUSHFQ
	CLD
	MOVQ	AX, batch·state+RAX_(SB)
	MOVQ	CX, batch·state+RCX_(SB)
	MOVQ	DX, batch·state+RDX_(SB)
	MOVQ	BX, batch·state+RBX_(SB)
	MOVQ	BP, batch·state+RBP_(SB)
	MOVQ	SI, batch·state+RSI_(SB)
	MOVQ	DI, batch·state+RDI_(SB)
	MOVQ	R8, batch·state+R8_(SB)
	MOVQ	R9, batch·state+R9_(SB)
	MOVQ	R10, batch·state+R10_(SB)
	MOVQ	R11, batch·state+R11_(SB)
	MOVQ	R12, batch·state+R12_(SB)
	MOVQ	R13, batch·state+R13_(SB)
	MOVQ	R14, batch·state+R14_(SB)
	EACH_XMM(STORE_XMM)
	STORE_XMM(X15, 544)
	STMXCSR	batch·state+MXCSR_(SB)
	POPQ	batch·state+RFLAGS_(SB)
	MOVQ	batch·state+RSP_(SB), R14
	MOVQ	0(R14), AX
	SUBQ	$CALL_SIZE, AX
	MOVQ	AX, batch·state+RIP_(SB)
	ADDQ	$8, R14
	MOVQ	R14, batch·state+RSP_(SB)
	// All of it against the frame; X2 gathers the bits that differ.
	MOVQ	batch·frame(SB), R15
	PXOR	X2, X2
	DIFFER(0)
	DIFFER(16)
	DIFFER(32)
	DIFFER(48)
	DIFFER(64)
	DIFFER(80)
	DIFFER(96)
	DIFFER(112)
	DIFFER(128)
	DIFFER(304)
	DIFFER(320)
	DIFFER(336)
	DIFFER(352)
	DIFFER(368)
	DIFFER(384)
	DIFFER(400)
	DIFFER(416)
	DIFFER(432)
	DIFFER(448)
	DIFFER(464)
	DIFFER(480)
	DIFFER(496)
	DIFFER(512)
	DIFFER(528)
	DIFFER(544)
	MOVQ	X2, AX
	PSRLO	$8, X2
	MOVQ	X2, BX
	ORQ	BX, AX
	MOVL	MXCSR_(R15), BX
	XORL	batch·state+MXCSR_(SB), BX
	ORQ	BX, AX
	MOVQ	WORDS_(R15), CX
	LEAQ	WINDOW_(R15), SI
	MOVQ	RSP_(R15), DI
window:
	SUBQ	$1, CX
	JCS	compared
	MOVQ	(SI)(CX*8), BX
	XORQ	(DI)(CX*8), BX
	ORQ	BX, AX
	JMP	window
compared:
	TESTQ	AX, AX
	JNE	lost
	JMP	batch·next(SB)
lost:
	CALL	batch·lost(SB)	// a gate; returns when Python has noted the frame
	JMP	batch·next(SB)

// Leaves poison behind, in the window and in the dead stack below it: the next asyncPreempt finds
// no slot that this one filled, and at the end of the list nothing may have changed.
TEXT batch·next(SB), NOSPLIT|NOFRAME, $0
	CLD
	MOVQ	batch·frame(SB), R15
	MOVQ	RSP_(R15), DI
	SUBQ	$DEAD_STACK, DI
	MOVQ	WORDS_(R15), CX
	ADDQ	$(DEAD_STACK/8), CX
	MOVQ	$POISON, AX
	MOVQ	AX, X0
	PUNPCKLQDQ	X0, X0
pair:
	SUBQ	$8, CX
	JCS	rest
	MOVUPS	X0, 0(DI)
	MOVUPS	X0, 16(DI)
	MOVUPS	X0, 32(DI)
	MOVUPS	X0, 48(DI)
	ADDQ	$64, DI
	JMP	pair
rest:
	ADDQ	$8, CX
	REP
	STOSQ
	MOVQ	NEXT_(R15), R15
	MOVQ	R15, batch·frame(SB)
	JMP	batch·start(SB)

// In place of asyncPreempt2: everything that it may overwrite becomes the complement of what it
// was at the boundary, so that nothing hides behind an equal value. SP and BP are kept; since 1.26
// R14 is g, and the vectors go from the P's scratch area to its cached block as by xRegSave and
// xRegRestore.
TEXT runtime·asyncPreempt2(SB), NOSPLIT|NOFRAME, $0
	MOVQ	batch·frame(SB), R15
#ifdef go1_26
	get_tls(CX)
	MOVQ	g(CX), R14
	MOVQ	g_m(R14), BX
	MOVQ	m_p(BX), BX
	LEAQ	(p_xRegs+xRegPerP_scratch)(BX), SI
	MOVQ	(p_xRegs+xRegPerP_cache)(BX), DI
	CLD
	MOVL	$(xRegState__size/8), CX
	REP
	MOVSQ
	LEAQ	(p_xRegs+xRegPerP_scratch)(BX), DI
	MOVL	$(xRegState__size/8), CX
	MOVQ	$POISON, AX
	REP
	STOSQ
#endif
	PCMPEQL	X15, X15
	EACH_XMM(POISON_XMM)
	MOVQ	552(R15), AX
	NOTQ	AX
	PUSHQ	AX
	MOVQ	544(R15), AX
	NOTQ	AX
	PUSHQ	AX
	MOVUPS	0(SP), X15
	ADJSP	$-16
	PUSHQ	RFLAGS_(R15)
	XORQ	$ARITHMETIC_FLAGS, 0(SP)
	POPFQ
	MOVQ	RAX_(R15), AX
	MOVQ	RCX_(R15), CX
	MOVQ	RDX_(R15), DX
	MOVQ	RBX_(R15), BX
	MOVQ	RSI_(R15), SI
	MOVQ	RDI_(R15), DI
	MOVQ	R8_(R15), R8
	MOVQ	R9_(R15), R9
	MOVQ	R10_(R15), R10
	MOVQ	R11_(R15), R11
	MOVQ	R12_(R15), R12
	MOVQ	R13_(R15), R13
	NOTQ	AX
	NOTQ	CX
	NOTQ	DX
	NOTQ	BX
	NOTQ	SI
	NOTQ	DI
	NOTQ	R8
	NOTQ	R9
	NOTQ	R10
	NOTQ	R11
	NOTQ	R12
	NOTQ	R13
#ifndef go1_26
	MOVQ	R14_(R15), R14
	NOTQ	R14
#endif
	MOVQ	R15_(R15), R15
	NOTQ	R15
	RET
