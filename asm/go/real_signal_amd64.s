// A handler for a real SIGURG, and what it leads to where there is no scheduler: sighandler's
// doSigPreempt (runtime/signal_unix.go) and pushCall (runtime/signal_amd64.go) on the kernel's own
// ucontext, and an asyncPreempt2 that gives way to nobody.
//
// What isAsyncSafePoint says of each PC is a table, made beforehand: where the call returns to, or 0.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"

// struct ucontext: uc_mcontext.gregs (arch/x86/include/uapi/asm/sigcontext.h)
#define UC_RSP 160
#define UC_RIP 168

#define RT_SIGRETURN 15

GLOBL	signal·pushed(SB), NOPTR, $8	// signals that led to a call,
GLOBL	signal·refused(SB), NOPTR, $8	// and that led to nothing
GLOBL	signal·code(SB), NOPTR, $8	// the snippet's code: address,
GLOBL	signal·code_size(SB), NOPTR, $8	// size,
GLOBL	signal·table(SB), NOPTR, $8	// and where its table lies
GLOBL	signal·lowest(SB), NOPTR, $8	// stack.lo + asyncPreemptStack
GLOBL	signal·high(SB), NOPTR, $8	// stack.hi
GLOBL	signal·scratch(SB), NOPTR, $8	// p.xRegs.scratch,
GLOBL	signal·cache(SB), NOPTR, $8	// the block that p.xRegs.cache names,
GLOBL	signal·area(SB), NOPTR, $8	// and their size in words
GLOBL	signal·features(SB), NOPTR, $8	// components of the extended state that XGETBV tells of
GLOBL	signal·image(SB), NOPTR, $8	// an XSAVE area in which all of them are in use
GLOBL	signal·mxcsr(SB), NOPTR, $8

// func(signo DI, info SI, ucontext DX)
TEXT signal·handler(SB), NOSPLIT|NOFRAME, $0
	MOVQ	UC_RIP(DX), CX
	SUBQ	signal·code(SB), CX
	CMPQ	CX, signal·code_size(SB)
	JAE	refuse
	MOVQ	signal·table(SB), AX
	MOVQ	(AX)(CX*8), CX
	TESTQ	CX, CX
	JEQ	refuse
	MOVQ	UC_RSP(DX), AX
	CMPQ	AX, signal·lowest(SB)
	JB	refuse
	CMPQ	AX, signal·high(SB)
	JA	refuse
	// pushCall
	SUBQ	$8, AX
	MOVQ	CX, (AX)
	MOVQ	AX, UC_RSP(DX)
	MOVQ	$runtime·asyncPreempt(SB), AX
	MOVQ	AX, UC_RIP(DX)
	INCQ	signal·pushed(SB)
	RET
refuse:
	INCQ	signal·refused(SB)
	RET

// sa_restorer: the handler returns here.
TEXT signal·restorer(SB), NOSPLIT|NOFRAME, $0
	MOVQ	$RT_SIGRETURN, AX
	SYSCALL

#define INVERT(reg)	NOTQ	reg
#define INVERT_XMM(reg)	PXOR	signal·ones(SB), reg

DATA	signal·ones+0(SB)/8, $-1
DATA	signal·ones+8(SB)/8, $-1
GLOBL	signal·ones(SB), NOPTR|RODATA, $16

// In place of asyncPreempt2, which keeps SP, BP and MXCSR, and since 1.26 has R14 = g. Everything
// else becomes the complement of what it was; AVX registers get other values where they are in use.
TEXT signal·asyncPreempt2(SB), NOSPLIT|NOFRAME, $0
	PUSHQ	AX
	PUSHQ	CX
	PUSHQ	DX
	PUSHQ	DI
#ifdef go1_26
	// xRegSave and xRegRestore: the block that p.xRegs.cache names keeps the vectors.
	PUSHQ	SI
	CLD
	MOVQ	signal·scratch(SB), SI
	MOVQ	signal·cache(SB), DI
	MOVQ	signal·area(SB), CX
	REP; MOVSQ
	MOVQ	$-1, AX
	MOVQ	signal·scratch(SB), DI
	MOVQ	signal·area(SB), CX
	REP; STOSQ
	POPQ	SI
#endif
	MOVQ	signal·features(SB), DI
	TESTQ	DI, DI
	JEQ	narrow
	MOVL	$1, CX
	XGETBV	// those of XCR0 that are in use (SDM volume 1, 13.2)
	ANDQ	DI, AX
	XORL	DX, DX
	MOVQ	signal·image(SB), DI
	STMXCSR	signal·mxcsr(SB)	// XRSTOR loads it with AVX
	XRSTOR64	(DI)
	LDMXCSR	signal·mxcsr(SB)
narrow:
	POPQ	DI
	POPQ	DX
	POPQ	CX
	POPQ	AX
	INVERT_XMM(X0)
	INVERT_XMM(X1)
	INVERT_XMM(X2)
	INVERT_XMM(X3)
	INVERT_XMM(X4)
	INVERT_XMM(X5)
	INVERT_XMM(X6)
	INVERT_XMM(X7)
	INVERT_XMM(X8)
	INVERT_XMM(X9)
	INVERT_XMM(X10)
	INVERT_XMM(X11)
	INVERT_XMM(X12)
	INVERT_XMM(X13)
	INVERT_XMM(X14)
	INVERT_XMM(X15)
	PUSHFQ
	XORQ	$0x8d5, 0(SP)	// the arithmetic flags
	POPFQ
	INVERT(AX)
	INVERT(CX)
	INVERT(DX)
	INVERT(BX)
	INVERT(SI)
	INVERT(DI)
	INVERT(R8)
	INVERT(R9)
	INVERT(R10)
	INVERT(R11)
	INVERT(R12)
	INVERT(R13)
#ifdef go1_26
	get_tls(R14)
	MOVQ	g(R14), R14
#else
	INVERT(R14)
#endif
	INVERT(R15)
	RET
